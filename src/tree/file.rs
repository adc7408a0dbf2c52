//! Single files in a tree that its member controls.

use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};

use crate::error::{Error, Kind, Result};
use crate::sys::path::{Links, open_in, reopen};

/// The content of the regular file `path` below `root`, links resolved inside it; at most
/// `limit` bytes, more is an error. A FIFO or device in its place is refused, not opened.
pub fn read(root: impl AsFd, path: &str, limit: u64) -> Result<Vec<u8>> {
    let found = open_in(root, path, Links::InRoot, OFlags::PATH, 0)?;
    let stat = rustix::fs::fstat(&found).map_err(std::io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::failed(format!("/{path} is not a regular file")));
    }
    let file = std::fs::File::from(reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Failed, format!("/{path} is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Makes text that a container wrote fit to be shown on a terminal: everything that could
/// move the cursor, colour, or answer back becomes a visible escape. Newlines and tabs stay.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            // Format characters can turn the direction of a line around.
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::path::open_dir;

    #[test]
    fn a_fifo_is_refused_without_waiting() {
        let dir = std::env::temp_dir().join(format!("coloc-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fifo = dir.join("f");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = open_dir(&dir).unwrap();
        assert!(read(&root, "f", 10).unwrap_err().to_string().contains("not a regular file"));
        std::fs::remove_file(&fifo).unwrap();
        std::fs::File::create(&fifo).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&root, "f", 10).unwrap_err().to_string().contains("larger"));
        std::fs::remove_file(&fifo).unwrap();
        std::fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn escapes_are_shown_not_obeyed() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\n");
        assert_eq!(printable("é\u{202e}x"), "é\\u{202e}x");
    }
}
