//! How the program is linked, so that the kernel and ld.so have little to do each time it is run.
//! What the linker or the compiler lacks is left out.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Addresses to relocate as a bit map: 24 bytes less to read for each of some ten thousand.
    // For glibc since 2.36, Debian 12's.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    link_unwinder();
}

/// Takes the unwinder into the program: libgcc_s is a library to load and set up otherwise, an eighth
/// of the time that an empty program takes, for panics alone.
fn link_unwinder() {
    const NAME: &str = "libgcc_eh.a";
    if std::env::var_os("HOST") != std::env::var_os("TARGET") {
        return;
    }
    let Ok(out) = Command::new("cc").arg(format!("-print-file-name={NAME}")).output() else {
        return;
    };
    let path = String::from_utf8_lossy(&out.stdout);
    // Where it has none it prints the name alone.
    if let Some(dir) = Path::new(path.trim()).parent().filter(|dir| dir.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", dir.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}
