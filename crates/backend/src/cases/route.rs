//! Routing by score and by table: the ids and the weights.

use super::inputs::{chunks, config, filled, offsets, output, prepare, step, table, values};
use super::{Case, Tolerance, Visitor};
use crate::error::Result;
use crate::kv::RowFormat;
use crate::ops::{Ops, Routing};

struct Route {
    rows: usize,
    experts: usize,
    used: usize,
    hash: bool,
    /// Equal logits: every choice is a tie.
    ties: bool,
}

pub(super) fn cases(visitor: &mut impl Visitor) {
    for (rows, experts, used) in [(6, 256, 6), (3, 384, 6), (5, 7, 7), (4, 6, 1)] {
        for (hash, ties) in [(false, false), (false, true), (true, false)] {
            visitor.visit(&Route { rows, experts, used, hash, ties });
        }
    }
}

impl Case for Route {
    fn name(&self) -> String {
        let Self { rows, experts, used, hash, ties } = self;
        format!("route hash {hash}, ties {ties}: {rows} rows, {used} of {experts}")
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { nmse: 1e-11, reason: "another rounding of exp and log; ids weigh most" }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn run<B: Ops>(&self, be: &mut B, chunk: usize) -> Result<Vec<f32>> {
        let mut config = config();
        (config.n_experts, config.n_experts_used) = (self.experts, self.used);
        prepare(be, &config, RowFormat::F32, self.rows)?;
        let logits = if self.ties {
            vec![0.25; self.rows * self.experts]
        } else {
            values(1, self.rows * self.experts).iter().map(|v| 8.0 * v).collect()
        };
        let zeros = vec![0.0; self.experts];
        let bias = if self.ties { zeros } else { values(2, self.experts) };
        let mut bias_tensor = offsets(2, self.experts);
        let bytes = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
        bias_tensor.data = gguf::TensorData::from_vec(bytes);
        let bias = be.load_vector(&bias_tensor)?;
        let table = be.load(&table(3, 64, self.used, self.experts))?;
        let mut result = Vec::new();
        for range in chunks(self.rows, chunk) {
            let n = range.len();
            let part = &logits[range.start * self.experts..range.end * self.experts];
            let logits = filled(be, "logits", self.experts, part)?;
            let ids = be.alloc_ids("ids", n, self.used)?;
            let mut routing = Routing { ids, weights: output(be, "weights", n, self.used)? };
            let step = step(range.clone(), 0, &[]);
            be.begin(&step)?;
            if self.hash {
                be.route_hash(&mut routing, &logits, &table, &step)?;
            } else {
                be.route_top_k(&mut routing, &logits, &bias, &step)?;
            }
            let (mut ids, mut weights) = (vec![0; n * self.used], vec![0.0; n * self.used]);
            be.read_ids(&routing.ids, 0, &mut ids)?;
            be.read(&routing.weights, 0, &mut weights)?;
            result.extend(ids.iter().zip(&weights).flat_map(|(&id, &w)| [id as f32, w]));
        }
        Ok(result)
    }
}
