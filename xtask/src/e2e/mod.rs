//! `cargo xtask e2e`: real client libraries and real coding agents against a server on loopback.
//!
//! The libraries talk to `keid serve` with keid-tiny. The agents, whose prompts are longer than its
//! context, talk to the same server code over an engine that says what is written down here: call
//! a tool, then report. What an agent makes of keid-tiny's refusal is looked at as well.

mod agents;
mod install;
mod process;
mod scripted;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::load::{Leave, ask};
pub(crate) use process::Keid;
use process::run;
pub(crate) use scripted::Scripted;

/// Run real clients against the server
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only these: openai, anthropic, ai-sdk, claude, codex, opencode,
    /// shutdown
    only: Vec<String>,
}

/// How one scenario went.
struct Outcome {
    client: &'static str,
    scenario: String,
    failure: Option<String>,
}

/// How long one client's scenarios may take together.
const LIMIT: Duration = Duration::from_secs(180);

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let wants = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        let target = target_dir()?;
        let installed = install::all(&target.join("e2e"))?;
        let keid = Keid::start(&target, &[])?;
        let mut outcomes = Vec::new();
        for (client, program, script) in [
            ("openai", &installed.python, "openai_client.py"),
            ("anthropic", &installed.python, "anthropic_client.py"),
            ("ai-sdk", &installed.node, "ai_sdk.mjs"),
        ] {
            if !wants(client) {
                continue;
            }
            let mut command = Command::new(program);
            // Modules are looked up beside the script.
            command.arg(install::script(&installed, script)?).env("KEID_URL", keid.url());
            let done = run(command, LIMIT)?;
            outcomes.extend(scenarios(client, &done.output));
            if !done.is_success {
                let failure = Some(done.last_lines(3));
                outcomes.push(Outcome { client, scenario: "ends".to_owned(), failure });
            }
        }
        for agent in agents::ALL.iter().filter(|agent| wants(agent.name)) {
            outcomes.extend(agents::try_out(agent, &installed, &keid)?);
        }
        if wants("shutdown") {
            outcomes.push(shutdown(keid)?);
        }
        report(&outcomes)
    }
}

/// A server that is told to end lets an open stream end first.
fn shutdown(keid: Keid) -> anyhow::Result<Outcome> {
    let url = keid.url().to_owned();
    let reader = std::thread::spawn(move || {
        let messages =
            serde_json::json!([{"role": "user", "content": "Tell me a story about a fox."}]);
        let body = serde_json::json!({
            "messages": messages, "stream": true, "stream_options": {"include_usage": true},
        });
        ask(&url, &body, Leave::Never)
    });
    std::thread::sleep(Duration::from_millis(50));
    let ended_well = keid.terminate()?;
    let failure = match reader.join() {
        Ok(Ok(_)) if ended_well => None,
        Ok(Ok(_)) => Some("it ended with an error".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the reader panicked".to_owned()),
    };
    let scenario = "SIGTERM lets an open stream end".to_owned();
    Ok(Outcome { client: "keid", scenario, failure })
}

/// The directory that cargo builds into: this program lies in one of its profiles.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let target = own.parent().and_then(Path::parent);
    target.map(Path::to_path_buf).context("this program is not in a target directory")
}

fn scenarios(client: &'static str, output: &str) -> Vec<Outcome> {
    let outcome = |line: &str| {
        let (scenario, failure) = match line.strip_prefix("failed ") {
            Some(rest) => {
                let (name, why) = rest.rsplit_once(": ").unwrap_or((rest, ""));
                (name, Some(why.to_owned()))
            }
            None => (line.strip_prefix("ok ")?, None),
        };
        Some(Outcome { client, scenario: scenario.to_owned(), failure })
    };
    output.lines().filter_map(outcome).collect()
}

fn report(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!("{:<12}{:<56}result", "client", "scenario");
    for Outcome { client, scenario, failure } in outcomes {
        let result = failure.as_deref().map_or("ok".to_owned(), |why| format!("FAILED: {why}"));
        println!("{client:<12}{scenario:<56}{result}");
    }
    let n_failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    println!("{} passed, {n_failed} failed", outcomes.len() - n_failed);
    if n_failed > 0 || outcomes.is_empty() {
        bail!("{n_failed} of {} scenarios failed", outcomes.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_scenarios_are_read_and_others_are_not() {
        let found = scenarios("x", "ok a b\nnoise\nfailed c: d: it broke\n");
        let shown: Vec<_> =
            found.iter().map(|o| (o.scenario.as_str(), o.failure.as_deref())).collect();
        assert_eq!(shown, [("a b", None), ("c: d", Some("it broke"))]);
    }
}
