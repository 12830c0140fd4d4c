//! Generated protobuf messages and gRPC stubs of every protocol Leno speaks; nothing else.
