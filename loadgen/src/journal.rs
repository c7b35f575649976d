//! Load whose operations are written down.

/// What the command takes.
#[derive(clap::Args, Debug)]
pub struct Flags {}

/// Runs the command; the error is one sentence for the user.
pub fn run(_flags: &Flags) -> Result<std::process::ExitCode, String> {
    Err("this command is not part of the build".to_owned())
}
