//! `keid plan --tiers`: the machine sizes that ds4's documentation names, and why.

use std::io::Write;

use tools::plan::tiers::{
    DS4_BYTES_PER_TOKEN, DS4_SCORES_PER_TOKEN, KEID_BUFFERS, Rule, Tier, default_gpu_limit, tiers,
};

use crate::print::{self, FAINT, HEADING, Table};

pub(super) fn print(out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
    let tiers = tiers();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&tiers)?)?;
        return Ok(());
    }
    print_table(out, &tiers)?;
    print_reasons(out, &tiers)?;
    print_changes(out, &tiers)
}

fn print_table(out: &mut dyn Write, tiers: &[Tier]) -> anyhow::Result<()> {
    writeln!(out, "{HEADING}Known machine sizes{HEADING:#}")?;
    let heading = ["memory", "model", "weights", "for context", "published", "ds4", "Keid"];
    let mut table = Table::new(heading);
    for tier in tiers {
        table.row([
            format!("{} GB", tier.memory >> 30),
            format!("{} {}", tier.model, tier.quant),
            print::bytes(tier.weights),
            print::bytes(tier.for_context),
            published(tier),
            thousands(tier.ds4_context),
            thousands(tier.keid_context),
        ]);
    }
    table.print(out)?;
    let note = "published: what ds4's documentation says; ds4 and Keid: what the rules below give.";
    writeln!(out, "  {FAINT}{note}{FAINT:#}")?;
    Ok(())
}

fn print_reasons(out: &mut dyn Write, tiers: &[Tier]) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}Why{HEADING:#}")?;
    for tier in tiers {
        let (memory, limit) = (tier.memory >> 30, print::bytes(default_gpu_limit(tier.memory)));
        let (weights, left) = (print::bytes(tier.weights), print::bytes(tier.for_context));
        let what = format!("{memory} GB, {} {}", tier.model, tier.quant);
        match tier.rule {
            Rule::Shared => writeln!(
                out,
                "  {what}: macOS lets the GPU have {limit}; the weights take {weights}. Half of \
                 the rest,\n    {left}, goes to the context, half stays free for prefill and \
                 other programs."
            )?,
            Rule::Dedicated => writeln!(
                out,
                "  {what}: the weights ({weights}) exceed what macOS lets the GPU have ({limit}),\n    \
                 so iogpu.wired_limit_mb must be raised; beside the system's own {} there is {left}.",
                print::bytes(tier.memory - tier.weights - tier.for_context)
            )?,
        }
    }
    Ok(())
}

fn print_changes(out: &mut dyn Write, tiers: &[Tier]) -> anyhow::Result<()> {
    writeln!(out, "\n{HEADING}What exact KV changes{HEADING:#}")?;
    let mut table = Table::new(["bytes a token of context", "ds4", "Keid"]);
    for model in ["Flash", "Pro"] {
        if let Some(tier) = tiers.iter().find(|tier| tier.model == model) {
            let bytes = |bytes: f64| print::count(bytes.round() as u64);
            table.row([model.to_owned(), bytes(tier.ds4_per_token), bytes(tier.keid_per_token)]);
        }
    }
    table.print(out)?;
    writeln!(
        out,
        "  ds4 plans {} B for a token of Flash: 13,760 B of rows in 32-bit floats, {} B of index\n  \
         scores for a prefill chunk of 2,048 rows, and prefill buffers. Keid stores rows in the\n  \
         precision the model was trained for (FP8 and FP4 with scales, which loses nothing) and\n  \
         picks index rows in tiles, so that scratch does not grow with the context: {} are set\n  \
         aside for it.",
        print::count(DS4_BYTES_PER_TOKEN as u64),
        print::count(DS4_SCORES_PER_TOKEN as u64),
        print::bytes(KEID_BUFFERS),
    )?;
    let freed = tiers.iter().filter(|tier| tier.keid_context > tier.ds4_context);
    for tier in freed {
        writeln!(
            out,
            "  {} GB, {} {}: {} tokens instead of {}.",
            tier.memory >> 30,
            tier.model,
            tier.quant,
            print::count(tier.keid_context),
            print::count(tier.ds4_context)
        )?;
    }
    Ok(())
}

fn published(tier: &Tier) -> String {
    match (tier.published, tier.model) {
        ((least, most), _) if least == most => format!("about {}", thousands(least)),
        ((_, most), "Pro") => format!("near {}", thousands(most)),
        ((1_000_000.., most), _) => thousands(most),
        ((least, most), _) if most == 1 << 20 => format!("{}+", thousands(least)),
        ((least, most), _) => format!("{} to {}", thousands(least), thousands(most)),
    }
}

/// Tokens as documentation writes them: `100K`, `1M`.
fn thousands(tokens: u64) -> String {
    match tokens {
        1_000_000.. => "1M".to_owned(),
        _ => format!("{}K", tokens / 1000),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    #[test]
    fn the_explanation_is_as_recorded() {
        let mut bytes = Vec::new();
        super::print(&mut anstream::StripStream::new(&mut bytes), false).unwrap();
        expect_file!["../../../tests/tiers.txt"].assert_eq(&String::from_utf8(bytes).unwrap());
    }
}
