//! `civic_fake_services storage DIRECTORY [PORT]`: a Storage API over a directory. Prints its URL and runs
//! until it is killed.

use std::process::ExitCode;

use civic_fake_services::{Options, Storage};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (directory, port) = match arguments.as_slice() {
        ["storage", directory] => (*directory, Ok(0)),
        ["storage", directory, port] => (*directory, port.parse()),
        _ => ("", Ok(0)),
    };
    let (false, Ok(port)) = (directory.is_empty(), port) else {
        eprintln!("usage: civic_fake_services storage DIRECTORY [PORT]");
        return ExitCode::FAILURE;
    };
    let options = Options { port, directory: Some(directory.into()), ..Options::default() };
    let storage = Storage::start(options);
    println!("{}", storage.url());
    loop {
        std::thread::park();
    }
}
