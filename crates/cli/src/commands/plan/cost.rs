//! `keid plan --cost`: what a million tokens cost, owned and rented.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tools::plan::Rates;
use tools::plan::cost::{BreakEven, Offer, Prices};
use tools::plan::plot::{Curve, Plot};

use super::{Subject, positive};
use crate::UsageError;
use crate::print::{self, HEADING, Table};

/// Flags of the cost comparison.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cost")]
pub(super) struct CostArgs {
    /// Compare owning with renting, per million generated tokens
    #[arg(long, requires = "hardware_price")]
    cost: bool,
    /// Price of the machine
    #[arg(long, value_name = "PRICE", requires = "cost", value_parser = positive)]
    hardware_price: Option<f64>,
    /// Years until the machine is worth nothing
    #[arg(long, value_name = "YEARS", default_value = "4", value_parser = positive)]
    life_years: f64,
    /// Power while generating
    #[arg(long, value_name = "WATTS", default_value = "150", value_parser = positive)]
    power_watts: f64,
    /// Price of a kilowatt-hour
    #[arg(long, value_name = "PRICE", default_value = "0.30", value_parser = positive)]
    electricity: f64,
    /// Rent of an equal Mac for a month
    #[arg(long, value_name = "PRICE", requires = "cost", value_parser = positive)]
    rent_mac: Option<f64>,
    /// Rent of a GPU for an hour
    #[arg(long, value_name = "PRICE", requires = "cost", value_parser = positive)]
    rent_gpu: Option<f64>,
    /// Hours of work a day
    #[arg(long, value_name = "HOURS", default_value = "8", value_parser = hours)]
    hours_per_day: f64,
    /// Decode speed of the machine [default: expected from --bandwidth]
    #[arg(long, value_name = "T/S", requires = "cost", value_parser = positive)]
    tokens_per_second: Option<f64>,
    /// Bandwidth of the rented GPU in GB/s; the default is an H200's
    #[arg(long, value_name = "GB/S", default_value = "4800", value_parser = positive)]
    gpu_bandwidth: f64,
    /// Write the plot as SVG, too
    #[arg(long, value_name = "FILE", requires = "cost")]
    svg: Option<PathBuf>,
}

/// The comparison, ready to print.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    prices: Prices,
    offers: Vec<Line>,
    break_even: Vec<BreakEven>,
    #[serde(skip)]
    plot: Plot,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(flatten)]
    offer: Offer,
    per_million: f64,
}

/// The context at which decode speed is taken: that of a working session.
const CONTEXT: u64 = 8192;

fn hours(text: &str) -> Result<f64, String> {
    let hours = positive(text)?;
    if hours > 24.0 { Err("a day has 24 hours".to_owned()) } else { Ok(hours) }
}

impl CostArgs {
    /// Compares, if asked to, and writes the SVG.
    pub(super) fn compare(
        &self,
        subject: &Subject,
        rates: Option<Rates>,
    ) -> anyhow::Result<Option<Comparison>> {
        let (true, Some(hardware)) = (self.cost, self.hardware_price) else { return Ok(None) };
        let speed = |rates| subject.work.speed(&subject.config, rates, CONTEXT).decode;
        let Some(own_speed) = self.tokens_per_second.or_else(|| rates.map(speed)) else {
            let what = "--cost needs the machine's --bandwidth or --tokens-per-second";
            bail!(UsageError(what.to_owned()));
        };
        let prices = Prices {
            hardware,
            life_years: self.life_years,
            power_watts: self.power_watts,
            electricity: self.electricity,
            rent_mac: self.rent_mac,
            rent_gpu: self.rent_gpu,
            tokens_per_second: own_speed,
            gpu_tokens_per_second: speed(Rates { bandwidth: self.gpu_bandwidth, tflops: None }),
            hours_per_day: self.hours_per_day,
        };
        let plot = plot(&prices);
        if let Some(path) = &self.svg {
            std::fs::write(path, plot.svg())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let line =
            |offer: Offer| Line { per_million: offer.per_million(self.hours_per_day), offer };
        let offers = prices.offers().into_iter().map(line).collect();
        Ok(Some(Comparison { offers, break_even: prices.break_even(), plot, prices }))
    }
}

fn plot(prices: &Prices) -> Plot {
    let xs: Vec<f64> = (1..=24).map(f64::from).collect();
    let curve = |offer: Offer| Curve {
        label: offer.label.to_owned(),
        values: xs.iter().map(|hours| offer.per_million(*hours)).collect(),
    };
    let curves = prices.offers().into_iter().map(curve).collect();
    Plot {
        title: "Cost".to_owned(),
        x_label: "hours of work a day".to_owned(),
        y_label: "per million tokens".to_owned(),
        curves,
        xs,
    }
}

impl Comparison {
    pub(super) fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let hours = self.prices.hours_per_day;
        writeln!(out, "\n{HEADING}Cost at {hours} hours a day{HEADING:#}")?;
        let mut table = Table::new(["", "t/s", "a day", "an hour", "a million tokens"]);
        for Line { offer, per_million } in &self.offers {
            table.row([
                offer.label.to_owned(),
                print::rate(offer.tokens_per_second),
                format!("{:.2}", offer.per_day),
                format!("{:.2}", offer.per_hour),
                format!("{per_million:.2}"),
            ]);
        }
        table.print(out)?;
        for found in &self.break_even {
            let when = match found.hours_per_day {
                Some(0.0) => "at any number of hours a day".to_owned(),
                Some(hours) => format!("from {hours:.1} hours a day"),
                None => "never".to_owned(),
            };
            let months = match found.months {
                Some(months) => format!("the price is earned back in {months:.0} months"),
                None => "the price is never earned back".to_owned(),
            };
            let label = found.label.replace("rent", "renting");
            writeln!(out, "  Owning is cheaper than {label} {when}; {months}.")?;
        }
        writeln!(out)?;
        Ok(write!(out, "{}", self.plot.text(60, 12))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_those_of_a_day() {
        assert_eq!(hours("8"), Ok(8.0));
        assert!(hours("25").is_err() && hours("0").is_err() && hours("x").is_err());
    }
}
