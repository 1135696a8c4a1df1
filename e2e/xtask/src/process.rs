//! Starting programs: output captured, kept quiet in a log file that the error names, or shown while it is kept.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::console;

/// How many lines of a failed program's log its error shows.
const TAIL_LINES: usize = 20;

/// What of a program's output people see while it runs; the log keeps all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Every line.
    Everything,
    /// The lines with which a test binary opens and closes, its failures, its figures, and how to replay it.
    TestResults,
}

/// One program to run.
pub(crate) struct Program {
    command: Command,
    words: Vec<String>,
    input: Option<String>,
}

/// A program by name, with what `cargo run` put into the environment taken out: it belongs to xtask and would mislead other compilers.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(name.as_ref());
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        let of_cargo_run =
            text == "CARGO" || text == "LD_LIBRARY_PATH" || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        if of_cargo_run {
            command.env_remove(&key);
        }
    }
    Program { command, words: vec![name.as_ref().to_string_lossy().into_owned()], input: None }
}

impl Program {
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        for argument in arguments {
            self.words.push(argument.as_ref().to_string_lossy().into_owned());
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn arg(self, argument: &str) -> Self {
        self.args([argument])
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn without_env(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    pub(crate) fn envs(mut self, pairs: &[(String, String)]) -> Self {
        self.command.envs(pairs.iter().map(|(key, value)| (key, value)));
        self
    }

    pub(crate) fn dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn input(mut self, text: String) -> Self {
        self.input = Some(text);
        self
    }

    /// Runs it and returns what it printed; its error output goes into the error.
    pub(crate) fn output(mut self) -> Result<String> {
        let words = self.words.join(" ");
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child =
            self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start `{words}`"))?;
        if let (Some(text), Some(mut stdin)) = (self.input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).with_context(|| format!("cannot write to `{words}`"))?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("`{words}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it ends well; prints nothing.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Runs it with all its output in the log.
    pub(crate) fn logged(mut self, log: &Path) -> Result<()> {
        let file = append(log, &self.words)?;
        let words = self.words.join(" ");
        let status = self
            .command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot start `{words}`"))?;
        if status.success() { Ok(()) } else { Err(failure(&words, &status.to_string(), log)) }
    }

    /// Runs it with its output in the log and, as far as asked, on the terminal. Returns its exit code.
    pub(crate) fn shown(mut self, log: &Path, echo: Echo) -> Result<i32> {
        let mut file = append(log, &self.words)?;
        let words = self.words.join(" ");
        let (reader, writer) = std::io::pipe()?;
        self.command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{words}`"))?;
        drop(self.command); // it holds the pipe's writing end, and reading would never end
        for text in BufReader::new(reader).split(b'\n') {
            let text = String::from_utf8_lossy(&text?).into_owned();
            writeln!(file, "{text}")?;
            if echo == Echo::Everything || is_test_result(&text) {
                console::line(&text);
            }
        }
        Ok(child.wait()?.code().unwrap_or(1))
    }

    /// Like `shown`, with a failure for any exit code but zero.
    pub(crate) fn shown_ok(self, log: &Path, echo: Echo) -> Result<()> {
        let words = self.words.join(" ");
        match self.shown(log, echo)? {
            0 => Ok(()),
            code => Err(failure(&words, &format!("exit code {code}"), log)),
        }
    }

    /// Starts it as a daemon: it outlives xtask and does not get its signals. What it returns says whether it has ended.
    pub(crate) fn detached(mut self, log: &Path) -> Result<Child> {
        use std::os::unix::process::CommandExt as _;
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        self.command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        self.command.spawn().with_context(|| format!("cannot start `{}`", self.words.join(" ")))
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| format!("    {line}\n")).collect()
}

fn is_test_result(line: &str) -> bool {
    let line = line.trim_start();
    ["test result:", "Running ", "Doc-tests ", "error", "thread '", "replay: ", "figure: "].iter().any(|start| line.starts_with(start))
        || line.ends_with("... FAILED")
}

fn append(log: &Path, words: &[String]) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {}", words.join(" "))?;
    Ok(file)
}

fn failure(words: &str, status: &str, log: &Path) -> anyhow::Error {
    anyhow!("`{words}` failed ({status}); the end of {}:\n{}", log.display(), tail(log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_names_its_log_and_shows_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error = program("sh").args(["-c", "echo the reason; exit 3"]).logged(&log).unwrap_err().to_string();
        assert!(error.contains("the reason") && error.contains(&log.display().to_string()), "{error}");
    }

    #[test]
    fn output_is_kept_in_the_log_and_the_exit_code_is_returned() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(program("sh").args(["-c", "echo shown; echo aside >&2; exit 7"]).shown(&log, Echo::TestResults).unwrap(), 7);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains("shown\n") && text.contains("aside\n"), "{text}");
    }

    #[test]
    fn closing_lines_of_a_test_binary_are_shown() {
        assert!(is_test_result("test result: ok. 3 passed"));
        assert!(is_test_result("     Running unittests src/lib.rs"));
        assert!(is_test_result("test a_thing ... FAILED"));
        assert!(!is_test_result("test a_thing ... ok"));
    }
}
