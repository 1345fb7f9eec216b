//! Tests of the protocol on small clusters. Each file shows some of the rules, and fails when they are broken.

mod catch_up;
mod encoding;
mod identity;
mod lessons;
mod membership;
mod ownership;
mod random;
mod reads;
mod renewal;
mod replication;
mod residence;
mod safety;
mod speed;
mod turns;
mod values;
mod witnesses;
