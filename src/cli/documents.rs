//! `wsic completions` and `wsic man`: what a shell and `man` have to know of the commands.

use super::Context;
use anyhow::{Context as _, Result};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

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
    let command = super::command();
    let Some(folder) = &arguments.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().lock().write_all(&page)?;
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("{}: cannot write the pages", folder.display()))?;
    if !context.quiet {
        eprintln!("{}: written", folder.display());
    }
    Ok(())
}
