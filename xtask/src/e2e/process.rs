//! Programs that are started, watched and ended.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// What a program did.
pub(super) struct Done {
    pub(super) is_success: bool,
    /// Standard output, then standard error.
    pub(super) output: String,
}

impl Done {
    /// The end of what it said, on one line.
    pub(super) fn last_lines(&self, n: usize) -> String {
        let lines: Vec<&str> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(n)..].join(" / ")
    }
}

/// Runs a program to its end, or ends it at the limit.
pub(super) fn run(mut command: Command, limit: Duration) -> anyhow::Result<Done> {
    let shown = format!("{:?}", command.get_program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let readers = [
        child.stdout.take().map(|pipe| collect(Box::new(pipe))),
        child.stderr.take().map(|pipe| collect(Box::new(pipe))),
    ];
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut output = String::new();
    for reader in readers.into_iter().flatten() {
        output.push_str(&reader.join().unwrap_or_default());
    }
    if status.is_none() {
        output.push_str(&format!("\nended after {} s", limit.as_secs()));
    }
    Ok(Done { is_success: status.is_some_and(|status| status.success()), output })
}

fn command_of(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn collect(mut pipe: Box<dyn Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read up to an error is shown.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `keid serve` on a free port; ends when dropped.
pub(crate) struct Keid {
    child: Child,
    url: String,
}

impl Keid {
    /// Starts the binary beside this one, with these flags more.
    pub(crate) fn start(target: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let profile = std::env::current_exe()?;
        let profile = profile.parent().and_then(Path::file_name).context("no profile")?;
        let program = target.join(profile).join("keid");
        let mut command = Command::new(&program);
        command.args(["serve", "--port", "0", "--quiet"]).args(flags);
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| {
            format!("cannot start {}: `cargo build --release` makes it", program.display())
        })?;
        let mut line = String::new();
        let out = child.stdout.take().context("no standard output")?;
        BufReader::new(out).read_line(&mut line)?;
        match line.trim().strip_prefix("listening on ") {
            Some(url) => Ok(Self { url: url.to_owned(), child }),
            None => {
                child.kill()?;
                bail!("{} did not say where it listens: {line:?}", program.display())
            }
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Asks it to end, as whoever runs services does; whether it ended well.
    pub(super) fn terminate(mut self) -> anyhow::Result<bool> {
        let id = self.id().to_string();
        let told = run(command_of("kill", &["-TERM", &id]), Duration::from_secs(5))?;
        if !told.is_success {
            bail!("kill: {}", told.output);
        }
        Ok(self.child.wait()?.success())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Keid {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
