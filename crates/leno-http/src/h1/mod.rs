//! HTTP/1: parsers on byte slices, a chunked decoder, writers of heads, and the two halves of a connection.
//!
//! The parsers take bytes and give types or errors: they can be called by a fuzzer without any I/O.

mod chunked;
mod encode;
mod parse;
mod reader;
mod stream;
mod writer;

pub use chunked::{ChunkStep, ChunkedDecoder};
pub use parse::{
    Framing, ParseError, Parsed, ParsedRequest, ParsedResponse, find_head, parse_request,
    parse_response,
};

pub(crate) use encode::{
    OutFraming, decimal, encode_interim, encode_request, encode_response, is_made_anew, is_target,
    needs_no_body,
};
pub(crate) use parse::{find_byte, is_authority, parse_length};
pub(crate) use reader::Reader;
pub(crate) use stream::split;
pub(crate) use writer::{Mode, Writer};
