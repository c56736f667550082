//! The files that are there on any machine that has built this project: the sources of what it depends on.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::tally::language;

/// The source files of every dependency that Cargo fetched, in the order of their names.
pub fn list() -> Outcome<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut files = Vec::new();
    let text = ask(
        &cargo,
        &[
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            &host(&cargo)?,
        ],
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array();
    for package in packages.into_iter().flatten() {
        // What has no source is a part of this project.
        if let (Some(_), Some(manifest)) = (
            package["source"].as_str(),
            package["manifest_path"].as_str(),
        ) && let Some(folder) = Path::new(manifest).parent()
        {
            walk(folder, &mut files)?;
        }
    }
    if files.is_empty() {
        return Err("cargo metadata names no dependency whose sources are on this machine".into());
    }
    files.sort();
    Ok(files)
}

/// One file name a line.
pub fn save(files: &[PathBuf], to: &Path) -> Outcome {
    let mut list = std::io::BufWriter::new(std::fs::File::create(to)?);
    for file in files {
        list.write_all(file.as_os_str().as_bytes())?;
        list.write_all(b"\n")?;
    }
    list.flush()?;
    Ok(())
}

/// Only the packages of this platform are sure to have been fetched.
fn host(cargo: &OsString) -> Outcome<String> {
    let version = ask(cargo, &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("cargo -vV names no host")?.to_owned())
}

fn ask(cargo: &OsString, words: &[&str]) -> Outcome<String> {
    let output = Command::new(cargo)
        .args(words)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", cargo.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {}: {}", words.join(" "), why.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() && language(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}
