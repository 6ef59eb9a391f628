//! `keid serve`: answers over HTTP.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener};
use std::path::Path;

use anyhow::Context as _;
use chat::Thinking;
use engine::{Options, RowFormat};
use model::Config;
use runtime::{Runtime, SchedulerOptions};
use server::{App, HttpOptions};
use tracing::level_filters::LevelFilter;

use crate::open::ModelArgs;
use crate::{Context, UsageError, values};

/// Flags of `keid serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Speaks the protocols of OpenAI (/v1/chat/completions, /v1/completions, /v1/responses) and \
Anthropic (/v1/messages). What a conversation has computed stays in memory, so that the next \
turn, an edited message or a second client goes on from the longest beginning they share.

Examples:
  keid serve -m model.gguf                       on http://127.0.0.1:8080
  keid serve -m model.gguf --ctx 128K --slots 4  four conversations of 128K tokens at once
  ANTHROPIC_BASE_URL=http://127.0.0.1:8080 claude
  keid serve -m model.gguf --host 0.0.0.0 --api-key SECRET")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The address to listen on; others than this machine can reach only another one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// What requests must show, as a bearer token or `x-api-key`
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Conversations that are computed at once
    #[arg(long, value_name = "N", default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Requests that wait for a slot; more are told to come back later
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Tokens of all conversations together, running and remembered [default: twice --ctx]
    #[arg(long, value_name = "TOKENS", value_parser = values::tokens)]
    pool: Option<u32>,
    /// Memory for the places where conversations can go on, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    anchors: usize,
    /// How much the model thinks where a request does not say: off or high
    #[arg(long, value_name = "MODE", default_value = "high")]
    think: Thinking,
    /// The model's name in /v1/models [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Say more: every decision and every connection
    #[arg(short, long)]
    verbose: bool,
}

impl Args {
    pub(crate) fn run(&self, context: &mut Context) -> anyhow::Result<()> {
        let thinks = match self.think {
            Thinking::Off => false,
            Thinking::High => true,
            other => {
                let message = format!("--think should be off or high here, not {other}");
                anyhow::bail!(UsageError(message))
            }
        };
        self.log(context.quiet);
        let address = (self.host, self.port);
        // Before the weights are loaded: a port that is taken is found out at once.
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {}:{}", self.host, self.port))?;
        let loaded = self.model.open_sized(context.quiet, |config| self.options(config))?;
        let mut options = server::Options::new(self.served_name(), loaded.format.0);
        options.thinks = thinks;
        options.api_key.clone_from(&self.api_key);
        if loaded.format.1 {
            context.note(&format!(
                "nothing in the file tells its prompt format; {} is assumed, --prompt-format \
                 chooses another",
                loaded.format.0
            ));
        }
        let (runtime, thread) =
            Runtime::spawn(loaded.engine, SchedulerOptions::default(), self.queue)
                .context("cannot start the engine's thread")?;
        let app = App::new(runtime, loaded.tokenizer, options)?;
        writeln!(context.out, "listening on http://{}", listener.local_addr()?)?;
        context.out.flush()?;
        let interrupt = context.interrupt.arm();
        // Whoever runs services ends them with SIGTERM: the same clean end as Ctrl-C.
        signal_hook::flag::register(signal_hook::consts::SIGTERM, interrupt.flag())
            .context("cannot listen for SIGTERM")?;
        server::run(listener, &app, HttpOptions::default(), interrupt.flag())?;
        drop(app);
        thread.wait();
        Ok(())
    }

    fn options(&self, config: &Config) -> Options {
        let single = self.model.options(config);
        let n_slots = usize::from(self.slots);
        let pool = self.pool.map_or(2 * single.context, |tokens| tokens as usize);
        Options {
            n_slots,
            pool_tokens: pool.max(single.context),
            // A step has room for two tokens of every conversation, whatever the chunk.
            step_rows: single.step_rows.max(2 * n_slots),
            logit_rows: n_slots,
            rows: RowFormat::Model,
            draft: false,
            anchor_bytes: self.anchors << 20,
            ..single
        }
    }

    /// Sends what the libraries say to standard error.
    fn log(&self, is_quiet: bool) {
        let level = match (is_quiet, self.verbose) {
            (_, true) => LevelFilter::DEBUG,
            (true, _) => LevelFilter::WARN,
            _ => LevelFilter::INFO,
        };
        let choice = anstream::AutoStream::choice(&std::io::stderr());
        let is_coloured = choice != anstream::ColorChoice::Never;
        let logger = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .with_ansi(is_coloured)
            .with_writer(std::io::stderr);
        // Somebody else's logger is as good.
        let _ = logger.try_init();
    }

    /// The name that was given, or the file's.
    fn served_name(&self) -> String {
        let stem = self.model.model.as_deref().and_then(Path::file_stem);
        let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
        self.name.clone().or(stem).unwrap_or_else(|| "keid-tiny".to_owned())
    }
}
