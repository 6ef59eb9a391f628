//! What a million tokens cost: owning a machine, renting one by the month, renting a GPU by the
//! hour.

use serde::Serialize;

/// Prices in one currency; days and hours of use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prices {
    /// Price of the machine.
    pub hardware: f64,
    /// Years until it is worth nothing.
    pub life_years: f64,
    /// Watts drawn while it works.
    pub power_watts: f64,
    /// Price of a kilowatt-hour.
    pub electricity: f64,
    /// Rent of an equal machine for a month.
    pub rent_mac: Option<f64>,
    /// Rent of a GPU for an hour.
    pub rent_gpu: Option<f64>,
    /// Tokens per second of the machine, owned or rented.
    pub tokens_per_second: f64,
    /// Tokens per second of the rented GPU.
    pub gpu_tokens_per_second: f64,
    /// Hours of work a day.
    pub hours_per_day: f64,
}

/// One way of having tokens made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Offer {
    /// What it is called in tables.
    pub label: &'static str,
    /// Cost of a day without work.
    pub per_day: f64,
    /// Cost that an hour of work adds.
    pub per_hour: f64,
    /// Tokens per second while it works.
    pub tokens_per_second: f64,
}

/// A comparison of owning with one rented offer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakEven {
    /// The rented offer.
    pub label: &'static str,
    /// Hours of work a day from which owning is cheaper; `None` if it never is.
    pub hours_per_day: Option<f64>,
    /// Months after which the purchase has paid for itself at the planned hours, counted in equal
    /// numbers of tokens; `None` if it never does.
    pub months: Option<f64>,
}

const DAYS_PER_YEAR: f64 = 365.25;
const DAYS_PER_MONTH: f64 = DAYS_PER_YEAR / 12.0;

impl Offer {
    /// Cost of a million tokens when working this many hours a day.
    pub fn per_million(&self, hours_per_day: f64) -> f64 {
        let tokens = self.tokens_per_second * 3600.0 * hours_per_day;
        (self.per_day + self.per_hour * hours_per_day) / tokens * 1e6
    }
}

impl Prices {
    /// Owning first, then what can be rented at the given prices.
    pub fn offers(&self) -> Vec<Offer> {
        let own = Offer {
            label: "own",
            per_day: self.hardware / (self.life_years * DAYS_PER_YEAR),
            per_hour: self.power_watts / 1000.0 * self.electricity,
            tokens_per_second: self.tokens_per_second,
        };
        let mac = self.rent_mac.map(|month| Offer {
            label: "rent a Mac",
            per_day: month / DAYS_PER_MONTH,
            per_hour: 0.0,
            tokens_per_second: self.tokens_per_second,
        });
        let gpu = self.rent_gpu.map(|hour| Offer {
            label: "rent a GPU",
            per_day: 0.0,
            per_hour: hour,
            tokens_per_second: self.gpu_tokens_per_second,
        });
        [Some(own), mac, gpu].into_iter().flatten().collect()
    }

    /// When owning becomes cheaper than each rented offer.
    pub fn break_even(&self) -> Vec<BreakEven> {
        let offers = self.offers();
        let Some((own, rented)) = offers.split_first() else { return Vec::new() };
        rented.iter().map(|offer| self.against(own, offer)).collect()
    }

    fn against(&self, own: &Offer, rented: &Offer) -> BreakEven {
        // In costs of the tokens that the own machine makes in an hour.
        let speed = own.tokens_per_second / rented.tokens_per_second;
        let fixed = own.per_day - rented.per_day * speed;
        let saved_per_hour = rented.per_hour * speed - own.per_hour;
        let hours_per_day = match (fixed <= 0.0, saved_per_hour > 0.0) {
            (true, true) => Some(0.0),
            (false, true) => Some(fixed / saved_per_hour).filter(|hours| *hours <= 24.0),
            // Owning is cheaper at every number of hours up to the planned ones, if at all.
            (_, false) => Some(0.0).filter(|_| fixed + -saved_per_hour * self.hours_per_day < 0.0),
        };
        let rent = rented.per_million(self.hours_per_day);
        let running = own.per_hour * self.hours_per_day;
        let tokens = own.tokens_per_second * 3600.0 * self.hours_per_day / 1e6;
        let saved_per_day = rent * tokens - running;
        let months = self.hardware / saved_per_day / DAYS_PER_MONTH;
        BreakEven {
            label: rented.label,
            hours_per_day,
            months: (saved_per_day > 0.0).then_some(months),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices {
            hardware: 10_000.0,
            life_years: 4.0,
            power_watts: 200.0,
            electricity: 0.25,
            rent_mac: Some(400.0),
            rent_gpu: Some(3.0),
            tokens_per_second: 40.0,
            gpu_tokens_per_second: 240.0,
            hours_per_day: 8.0,
        }
    }

    #[test]
    fn a_million_tokens_cost_what_a_hand_calculation_says() {
        let offers = prices().offers();
        // 1.152 million tokens a day; 6.845 for the machine and 0.40 for power.
        assert!((offers[0].per_million(8.0) - 6.289).abs() < 0.01, "{offers:?}");
        assert!((offers[1].per_million(8.0) - 400.0 / 30.4375 / 1.152).abs() < 0.01);
        assert!((offers[2].per_million(8.0) - 3.0 / 0.864).abs() < 0.01);
        assert!(offers[2].per_million(1.0) - offers[2].per_million(24.0) < 1e-9);
    }

    #[test]
    fn break_even_is_where_the_costs_meet() {
        let mut prices = prices();
        prices.gpu_tokens_per_second = 60.0;
        let offers = prices.offers();
        let found = prices.break_even();
        let hours = found[1].hours_per_day.unwrap();
        let difference = offers[0].per_million(hours) - offers[2].per_million(hours);
        assert!(difference.abs() < 1e-6, "{found:?}");
        // The rented Mac costs 400 a month; owning saves all but 12.2 of power.
        assert!((found[0].months.unwrap() - 10_000.0 / (400.0 - 12.175)).abs() < 0.01);
        assert_eq!(found[0].hours_per_day, Some(0.0));
    }

    #[test]
    fn owning_never_pays_against_rent_that_costs_less_than_power() {
        let prices = Prices { rent_mac: None, rent_gpu: Some(0.1), ..prices() };
        let found = prices.break_even();
        assert_eq!((found[0].hours_per_day, found[0].months), (None, None));
    }
}
