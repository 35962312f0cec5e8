//! Linked code of GPU kernels on disk: a driver translates PTX once for each GPU and version of itself.
//!
//! What enters is PTX and a [`Linker`]; what leaves is code that a device has accepted, from the user's cache folder where
//! it is there and whole. An entry names what it was made of and the hash of its bytes: one that is damaged, or another's
//! under this name, counts as missing. A cache that cannot be read or written is no error. Nothing here knows CUDA.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What an entry begins with.
const MAGIC: &[u8; 16] = b"llmc module  v1\n";
/// Bytes before an entry's code: the magic, what it was made of, the hash of the code.
const HEAD: usize = MAGIC.len() + 32 + 32;
/// The ending of entries.
const ENDING: &str = "cubin";
/// The most bytes that all entries may take.
const LIMIT: u64 = 1 << 30;

/// What turns PTX into code.
pub trait Linker {
    /// Why there is no code.
    type Error;

    /// Everything but the PTX that its code depends on: the driver's version, the GPU.
    fn identity(&self) -> String;

    /// Code of this PTX.
    ///
    /// # Errors
    /// What the linker says.
    fn link(&mut self, ptx: &[u8]) -> Result<Vec<u8>, Self::Error>;
}

/// A folder of entries.
#[derive(Clone, Debug)]
pub struct Modules {
    folder: Option<PathBuf>,
    limit: u64,
}

impl Modules {
    /// In the user's cache folder.
    pub fn of_user() -> Modules {
        Modules { folder: folder(|name| std::env::var_os(name)), limit: LIMIT }
    }

    /// In this folder, which is made when it is needed.
    #[cfg(test)]
    fn at(folder: &Path, limit: u64) -> Modules {
        Modules { folder: Some(folder.to_owned()), limit }
    }

    /// What `accept` makes of the code: of the folder's, or, where there is none or `accept` refuses it, of what is linked
    /// now and kept.
    ///
    /// # Errors
    /// What the linker says, or `accept` of its code.
    pub fn load<L: Linker, T>(
        &self,
        ptx: &[u8],
        linker: &mut L,
        mut accept: impl FnMut(&[u8]) -> Result<T, L::Error>,
    ) -> Result<T, L::Error> {
        let key = key(ptx, &linker.identity());
        let known = self.path(&key).and_then(|path| read(&path, &key, self.limit));
        if let Some(made) = known.and_then(|code| accept(&code).ok()) {
            return Ok(made);
        }
        let code = linker.link(ptx)?;
        let made = accept(&code)?;
        self.keep(&key, &code);
        Ok(made)
    }

    fn path(&self, key: &blake3::Hash) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{key}.{ENDING}")))
    }

    /// Writes an entry: whole or not at all, for other processes read and write the same folder.
    fn keep(&self, key: &blake3::Hash, code: &[u8]) {
        let (Some(folder), Some(path)) = (&self.folder, self.path(key)) else { return };
        if (HEAD + code.len()) as u64 > self.limit {
            return;
        }
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::Builder::new().prefix("new-").suffix(&format!(".{ENDING}")).tempfile_in(folder)?;
            for part in [MAGIC.as_slice(), key.as_bytes(), blake3::hash(code).as_bytes(), code] {
                file.write_all(part)?;
            }
            file.persist(&path)?;
            Ok(())
        };
        if write().is_ok() {
            trim(folder, self.limit, &path);
        }
    }
}

/// The folder, by the process's environment.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = set("LLMC_CACHE");
    let of_user = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|h| h.join(".cache"))).map(|c| c.join("llmc"));
    own.or_else(of_user).map(|cache| cache.join("modules"))
}

/// What an entry is found by.
fn key(ptx: &[u8], identity: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // Lengths first, so that no two pairs run together to the same bytes.
    for part in [identity.as_bytes(), ptx] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

/// An entry's code, where it is whole and made of what the key says. What is used lives longer.
fn read(path: &Path, key: &blake3::Hash, limit: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok().filter(|m| m.is_file())?.len();
    if length > limit {
        return None;
    }
    let mut bytes = Vec::with_capacity(length as usize);
    (&mut file).take(limit).read_to_end(&mut bytes).ok()?;
    let (head, code) = bytes.split_at_checked(HEAD)?;
    let (magic, rest) = head.split_at(MAGIC.len());
    let (made_of, hash) = rest.split_at(32);
    let whole = magic == MAGIC && made_of == key.as_bytes() && hash == blake3::hash(code).as_bytes();
    let _ = File::options().write(true).open(path).and_then(|f| f.set_modified(SystemTime::now()));
    whole.then(|| code.to_vec())
}

/// Removes what was not used for longest until the rest fits. The newest stays.
fn trim(folder: &Path, limit: u64, newest: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let entry = |e: fs::DirEntry| {
        let path = e.path();
        let ours = path.extension().is_some_and(|x| x == ENDING);
        let meta = e.metadata().ok().filter(|m| ours && m.is_file())?;
        Some((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path))
    };
    let mut all: Vec<_> = entries.flatten().filter_map(entry).collect();
    all.sort();
    let mut total: u64 = all.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in all {
        if total > limit && path != newest && fs::remove_file(&path).is_ok() {
            total -= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Upper case, for a driver of some version.
    struct Shouting {
        version: u32,
        linked: usize,
    }

    impl Linker for Shouting {
        type Error = String;

        fn identity(&self) -> String {
            format!("driver {}", self.version)
        }

        fn link(&mut self, ptx: &[u8]) -> Result<Vec<u8>, String> {
            self.linked += 1;
            let text = std::str::from_utf8(ptx).map_err(|e| e.to_string())?;
            Ok(text.to_uppercase().into_bytes())
        }
    }

    fn linker(version: u32) -> Shouting {
        Shouting { version, linked: 0 }
    }

    fn load(modules: &Modules, ptx: &str, linker: &mut Shouting) -> Result<String, String> {
        modules.load(ptx.as_bytes(), linker, |code| Ok(String::from_utf8_lossy(code).into_owned()))
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
    }

    #[test]
    fn what_was_linked_is_not_linked_again() {
        let dir = tempfile::tempdir().unwrap();
        let modules = Modules::at(&dir.path().join("made/when/needed"), 1 << 20);
        let mut first = linker(1);
        for _ in 0..3 {
            assert_eq!(load(&modules, "add", &mut first).unwrap(), "ADD");
        }
        assert_eq!(first.linked, 1);
        let mut again = linker(1);
        assert_eq!(load(&modules, "add", &mut again).unwrap(), "ADD");
        assert_eq!(again.linked, 0, "another process finds it");
        let mut newer = linker(2);
        load(&modules, "add", &mut newer).unwrap();
        load(&modules, "sub", &mut newer).unwrap();
        assert_eq!(newer.linked, 2, "another driver and other PTX do not");
    }

    #[test]
    fn damaged_and_foreign_entries_are_linked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let modules = Modules::at(dir.path(), 1 << 20);
        load(&modules, "add", &mut linker(1)).unwrap();
        let path = entries(dir.path()).pop().unwrap();
        let whole = fs::read(&path).unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        damaged.extend((0..whole.len()).map(|n| {
            let mut bytes = whole.clone();
            bytes[n] ^= 1;
            bytes
        }));
        damaged.push([whole.as_slice(), b"!"].concat());
        for bytes in damaged {
            fs::write(&path, &bytes).unwrap();
            let mut again = linker(1);
            assert_eq!(load(&modules, "add", &mut again).unwrap(), "ADD");
            assert_eq!(again.linked, 1);
            assert_eq!(fs::read(&path).unwrap(), whole, "and is whole again");
        }
        // Another's entry under this name.
        load(&modules, "sub", &mut linker(1)).unwrap();
        let other = entries(dir.path()).into_iter().find(|p| *p != path).unwrap();
        fs::copy(&other, &path).unwrap();
        assert_eq!(load(&modules, "add", &mut linker(1)).unwrap(), "ADD");
    }

    #[test]
    fn what_the_device_refuses_is_linked_anew() {
        let dir = tempfile::tempdir().unwrap();
        let modules = Modules::at(dir.path(), 1 << 20);
        load(&modules, "add", &mut linker(1)).unwrap();
        let (mut again, mut asked) = (linker(1), 0);
        let made = modules.load(b"add", &mut again, |code| {
            asked += 1;
            if asked == 1 { Err("not today".to_string()) } else { Ok(code.len()) }
        });
        assert_eq!((made, again.linked), (Ok(3), 1));
        let mut refused = linker(1);
        let error = modules.load(b"mul", &mut refused, |_| Err::<(), _>("never".to_string()));
        assert_eq!((error, refused.linked), (Err("never".to_string()), 1));
        assert_eq!(entries(dir.path()).len(), 1, "what is refused is not kept");
        assert!(load(&modules, "\u{0}", &mut linker(1)).is_ok());
        assert!(modules.load(&[0xff], &mut linker(1), |_| Ok(())).is_err(), "what cannot be linked is an error");
    }

    #[test]
    fn the_longest_unused_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let size = (HEAD + 3) as u64;
        let modules = Modules::at(dir.path(), 3 * size);
        let age = |ptx: &str, seconds: u64| {
            let path = modules.path(&key(ptx.as_bytes(), "driver 1")).unwrap();
            let then = SystemTime::now() - Duration::from_secs(seconds);
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        };
        for (ptx, seconds) in [("one", 300), ("two", 200), ("six", 100)] {
            load(&modules, ptx, &mut linker(1)).unwrap();
            age(ptx, seconds);
        }
        load(&modules, "one", &mut linker(1)).unwrap(); // used: now the newest
        load(&modules, "ten", &mut linker(1)).unwrap();
        let there = |ptx: &str| modules.path(&key(ptx.as_bytes(), "driver 1")).unwrap().exists();
        assert_eq!(["one", "two", "six", "ten"].map(there), [true, false, true, true]);
        let foreign = dir.path().join("notes.txt");
        fs::write(&foreign, vec![0; 1000]).unwrap();
        load(&modules, "new", &mut linker(1)).unwrap();
        assert!(foreign.exists() && entries(dir.path()).len() == 4, "files of others neither count nor go");
        assert_eq!(load(&modules, &"long".repeat(200), &mut linker(1)).unwrap().len(), 800);
        assert_eq!(entries(dir.path()).len(), 4, "what is larger than the whole cache is not kept");
    }

    #[test]
    fn without_a_folder_code_is_linked_each_time() {
        let (none, mut linker) = (Modules { folder: None, limit: LIMIT }, linker(1));
        load(&none, "add", &mut linker).unwrap();
        load(&none, "add", &mut linker).unwrap();
        assert_eq!(linker.linked, 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        let blocked = Modules::at(&file.path().join("below a file"), LIMIT);
        assert_eq!(load(&blocked, "add", &mut linker).unwrap(), "ADD");
    }

    #[test]
    fn the_folder_is_the_user_s() {
        let of =
            |set: &[(&str, &str)]| folder(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)));
        let home = ("HOME", "/home/a");
        assert_eq!(of(&[home]), Some(PathBuf::from("/home/a/.cache/llmc/modules")));
        assert_eq!(of(&[home, ("XDG_CACHE_HOME", "/c")]), Some(PathBuf::from("/c/llmc/modules")));
        assert_eq!(of(&[home, ("LLMC_CACHE", "/l"), ("XDG_CACHE_HOME", "")]), Some(PathBuf::from("/l/modules")));
        assert_eq!(of(&[]), None);
    }
}
