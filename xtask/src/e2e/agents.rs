//! Coding agents, told where the server is by their own settings.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::Outcome;
use super::install::Installed;
use super::process::{Done, Keid, run};
use super::scripted::Scripted;

/// A coding agent and how it calls its shell.
pub(super) struct Agent {
    pub(super) name: &'static str,
    /// Its shell tool and the tool's parameter.
    shell: (&'static str, &'static str),
    /// Writes its settings into its home and working directory, and gives the command's arguments.
    prepare: fn(&str, &Path) -> std::io::Result<Settings>,
    /// What it says when a prompt does not fit; `None` where it tries again and again.
    too_long: Option<&'static str>,
}

/// Arguments and environment.
type Settings = (Vec<&'static str>, Vec<(&'static str, String)>);

pub(super) const ALL: &[Agent] = &[
    Agent {
        name: "claude",
        shell: ("Bash", "command"),
        prepare: claude,
        too_long: Some("Prompt is too long"),
    },
    Agent {
        name: "codex",
        shell: ("exec_command", "cmd"),
        prepare: codex,
        too_long: Some("context window"),
    },
    Agent { name: "opencode", shell: ("bash", "command"), prepare: opencode, too_long: None },
];

const LIMIT: Duration = Duration::from_secs(120);
const TASK: &str = "Write the word made into proof.txt, then say what you did.";
const REPORT: &str = "The file is there: report 4242.";

fn claude(url: &str, _: &Path) -> std::io::Result<Settings> {
    let environment = vec![
        ("ANTHROPIC_BASE_URL", url.to_owned()),
        ("ANTHROPIC_API_KEY", "none".to_owned()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        ("DISABLE_AUTOUPDATER", "1".to_owned()),
        // Lets it work without asking as any user.
        ("IS_SANDBOX", "1".to_owned()),
    ];
    Ok((vec!["--print", "--model", "keid", "--dangerously-skip-permissions", TASK], environment))
}

fn codex(url: &str, home: &Path) -> std::io::Result<Settings> {
    let settings = format!(
        "model = \"keid\"\nmodel_provider = \"keid\"\n[model_providers.keid]\nname = \"keid\"\n\
         base_url = \"{url}/v1\"\nwire_api = \"responses\"\n"
    );
    std::fs::create_dir_all(home.join(".codex"))?;
    std::fs::write(home.join(".codex/config.toml"), settings)?;
    let flags = "--dangerously-bypass-approvals-and-sandbox";
    Ok((vec!["exec", "--skip-git-repo-check", flags, TASK], Vec::new()))
}

fn opencode(url: &str, home: &Path) -> std::io::Result<Settings> {
    let settings = serde_json::json!({
        "provider": {"keid": {
            "npm": "@ai-sdk/openai-compatible",
            "name": "keid",
            "options": {"baseURL": format!("{url}/v1"), "apiKey": "none"},
            "models": {"keid": {"name": "keid", "limit": {"context": 200_000, "output": 4096}}},
        }},
        "model": "keid/keid",
        "autoupdate": false,
        "share": "disabled",
    });
    std::fs::write(home.join("opencode.json"), settings.to_string())?;
    let environment = vec![
        ("OPENCODE_CONFIG", home.join("opencode.json").display().to_string()),
        ("OPENCODE_DISABLE_MODELS_FETCH", "1".to_owned()),
        ("OPENCODE_DISABLE_AUTOUPDATE", "1".to_owned()),
    ];
    Ok((vec!["run", TASK], environment))
}

/// Lets an agent do a task with a tool, and meet a context that is too short.
pub(super) fn try_out(
    agent: &Agent,
    installed: &Installed,
    keid: &Keid,
) -> anyhow::Result<Vec<Outcome>> {
    let (tool, parameter) = agent.shell;
    let call = format!(
        "I write it.</think>On it.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"{tool}\">\n\
         <｜DSML｜parameter name=\"{parameter}\" string=\"true\">echo made > proof.txt\
         </｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
    );
    let report = format!("It is done.</think>{REPORT}");
    let mut outcomes = Vec::new();
    {
        let server = Scripted::start(&[&call, &report], Duration::ZERO)?;
        let (done, work) = start(agent, installed, server.url())?;
        let made = std::fs::read_to_string(work.path().join("proof.txt")).unwrap_or_default();
        let failure = if !done.is_success {
            Some(done.last_lines(3))
        } else if made.trim() != "made" {
            Some(format!("its tool was not run; it said {}", done.last_lines(3)))
        } else if !done.output.contains("4242") {
            Some(format!("it did not report; it said {}", done.last_lines(3)))
        } else {
            None
        };
        outcomes.push(("calls a tool, reads the result, reports", failure));
    }
    if let Some(words) = agent.too_long {
        let (done, _) = start(agent, installed, keid.url())?;
        let failure = (!done.output.contains(words)).then(|| done.last_lines(3));
        outcomes.push(("knows when a prompt does not fit (keid-tiny)", failure));
    }
    let outcome = |(scenario, failure): (&str, Option<String>)| Outcome {
        client: agent.name,
        scenario: scenario.to_owned(),
        failure,
    };
    Ok(outcomes.into_iter().map(outcome).collect())
}

/// Runs an agent in a directory of its own, with a home of its own.
fn start(agent: &Agent, installed: &Installed, url: &str) -> anyhow::Result<(Done, TempDir)> {
    let (home, work) = (TempDir::new()?, TempDir::new()?);
    let mut command = Command::new(installed.packages.join("node_modules/.bin").join(agent.name));
    let (arguments, environment) = (agent.prepare)(url, home.path())?;
    command.args(arguments).envs(environment).env("HOME", home.path());
    // Some ask the shell's variable instead of the system.
    command.current_dir(work.path()).env("PWD", work.path());
    Ok((run(command, LIMIT)?, work))
}
