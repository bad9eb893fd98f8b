//! Outputs are looked at before any work: what would destroy an input, or could never be written, is refused.

use crate::gguf;
use anyhow::{bail, ensure, Context as _, Result};
use std::path::{Path, PathBuf};

/// Checks a file to be written against all files that the command reads.
pub(super) fn check<'p>(output: &Path, inputs: impl IntoIterator<Item = &'p Path>) -> Result<()> {
    let name = output.display();
    ensure!(
        output.as_os_str() != "-",
        "-: this output goes into a file, not to standard output; give it a name"
    );
    let Some(file_name) = output.file_name() else { bail!("{name}: is no name of a file") };
    let folder = folder_of(output);
    ensure!(folder.is_dir(), "{name}: the folder {} does not exist; make it first", folder.display());
    match std::fs::metadata(output) {
        Ok(found) if found.is_dir() => bail!("{name}: is a folder; name a file in it"),
        Ok(found) if !found.is_file() => bail!("{name}: exists and is no regular file; choose another name"),
        _ => {}
    }
    // A file that is not there yet has no canonical name of its own.
    let absolute = |path: &Path| path.canonicalize().ok();
    let own = absolute(output).or_else(|| Some(absolute(folder)?.join(file_name)));
    for input in inputs {
        let same = own.is_some() && absolute(input) == own;
        ensure!(!same, "{name}: the output is the input {}; choose another name", input.display());
    }
    Ok(())
}

/// Checks several files to be written, against each other too.
pub(super) fn check_all<'p>(
    outputs: &[&Path],
    inputs: impl IntoIterator<Item = &'p Path> + Clone,
) -> Result<()> {
    for (index, output) in outputs.iter().enumerate() {
        check(output, inputs.clone())?;
        let twice = outputs[..index].contains(output);
        ensure!(!twice, "{}: is named for two outputs", output.display());
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a whole file under a temporary name and renames it: readers see the old one or the new one. An interrupt
/// leaves nothing behind.
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(format!(".{}.partial", std::process::id()));
    let temporary: PathBuf = path.with_file_name(hidden);
    write_by_way_of(&temporary, path, |temporary| std::fs::write(temporary, content))
}

fn write_by_way_of(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<()> {
    // Before it is there, so that it is known whenever it is there.
    gguf::begin_unfinished(temporary);
    let written = write(temporary).and_then(|()| std::fs::rename(temporary, path));
    gguf::forget_unfinished(temporary);
    if written.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(temporary);
    }
    written.with_context(|| format!("{}: cannot write", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_or_must_not_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (input, output) = (path("in.gguf"), path("out.gguf"));
        std::fs::write(&input, "x").unwrap();
        let refused = |output: &Path| check(output, [input.as_path()]).unwrap_err().to_string();
        check(&output, [input.as_path()]).unwrap();
        assert!(refused(&input).contains("is the input"));
        assert!(refused(&folder.path().join(".").join("in.gguf")).contains("is the input"));
        assert!(refused(folder.path()).contains("is a folder"));
        assert!(refused(&path("none/out.gguf")).contains("does not exist"));
        assert!(refused(Path::new("-")).contains("standard output"));
        assert!(refused(Path::new("..")).contains("no name"));
        #[cfg(unix)]
        assert!(refused(Path::new("/dev/null")).contains("no regular file"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&input, path("link")).unwrap();
            assert!(refused(&path("link")).contains("is the input"));
        }
        assert!(check_all(&[&output, &output], [input.as_path()]).is_err());
        check_all(&[&output, &path("log")], [input.as_path()]).unwrap();
    }

    #[test]
    fn files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for content in ["long content", "short"] {
            write(&path, content).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/x"), "").is_err());
    }

    #[test]
    fn an_interrupt_would_remove_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let (temporary, path) = (folder.path().join("temporary"), folder.path().join("x"));
        write_by_way_of(&temporary, &path, |temporary| {
            assert!(gguf::is_unfinished(temporary));
            std::fs::write(temporary, "x")
        })
        .unwrap();
        assert!(path.exists() && !gguf::is_unfinished(&temporary));
        let failing = |_: &Path| Err(std::io::Error::other("full"));
        assert!(write_by_way_of(&temporary, &path, failing).is_err());
        assert!(!gguf::is_unfinished(&temporary));
    }
}
