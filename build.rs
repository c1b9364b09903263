//! Links libgcc's unwinder into the library, which then needs libc, libm and the loader only: images of
//! PostgreSQL such as Supabase's have no libgcc_s. Where the compiler has no static one, nothing changes.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let asked = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    let Ok(asked) = asked else { return };
    if !Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_absolute() {
        return;
    }
    // std asks the linker for `-lgcc_s`, and the linker finds this script first.
    let directory = std::env::var("OUT_DIR").expect("cargo sets it");
    let script = Path::new(&directory).join("libgcc_s.so");
    std::fs::write(script, "GROUP(-l:libgcc_eh.a -l:libgcc.a)\n").expect("a file in OUT_DIR");
    println!("cargo:rustc-link-arg-cdylib=-L{directory}");
}
