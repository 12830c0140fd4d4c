//! The shop's programs by themselves: `shop PROGRAM`.

use std::process::ExitCode;

fn main() -> ExitCode {
    leno_shop::main(std::env::args_os().skip(1))
}
