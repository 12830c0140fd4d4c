//! Arguments and wiring; nothing else.

use std::{env, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    // The demo's programs: ordinary ones, which this binary only carries.
    if args.get(1).is_some_and(|command| command == "shop") {
        return leno_shop::main(args.into_iter().skip(2));
    }
    leno_cli::main(args)
}
