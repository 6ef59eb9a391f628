//! Library functions behind the commands: inspect, synth, bench, plan, doctor.
