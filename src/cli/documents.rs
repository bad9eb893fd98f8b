//! `wsic completions` and `wsic man`: what a shell and `man` have to know of the commands.

use super::Context;
use anyhow::{Context as _, Result};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic completions bash > ~/.local/share/bash-completion/completions/wsic
  wsic completions zsh > ~/.zfunc/_wsic          # a folder of $fpath
  wsic completions fish > ~/.config/fish/completions/wsic.fish
  wsic completions powershell >> $PROFILE")]
pub(crate) struct CompletionsArguments {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Write the manual pages: one for wsic, and one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wsic man --output ~/.local/share/man/man1
  wsic man | man -l -")]
pub(crate) struct ManArguments {
    /// Folder for the pages wsic.1, wsic-convert.1 and so on [default: wsic.1 to standard output].
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &CompletionsArguments, _context: &Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::command(), "wsic", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}

pub(crate) fn man(arguments: &ManArguments, context: &Context) -> Result<()> {
    // `wsic help` is no command to have a page.
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &arguments.output else {
        std::io::stdout().lock().write_all(page(&clap_mangen::Man::new(command))?.as_bytes())?;
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    write_pages(&command, folder)?;
    if !context.quiet {
        eprintln!("{}: written", folder.display());
    }
    Ok(())
}

/// Writes the page of a command, and those of the commands in it.
fn write_pages(command: &clap::Command, folder: &Path) -> Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    let path = folder.join(man.get_filename());
    let written = page(&man).and_then(|text| Ok(std::fs::write(&path, text)?));
    written.with_context(|| format!("{}: cannot write", path.display()))?;
    command.get_subcommands().try_for_each(|inner| write_pages(inner, folder))
}

/// A manual page. What follows the options in `--help` begins with examples, and has that heading here.
fn page(man: &clap_mangen::Man) -> Result<String> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(String::from_utf8(page)?.replace("\n.SH EXTRA\nExamples:\n", "\n.SH EXAMPLES\n"))
}
