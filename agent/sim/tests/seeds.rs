//! A few seeds beside the unit tests, and that a seed is one history and no other. The suite `sim` runs ten thousand.

use sim::{Trace, run};

#[test]
fn the_first_seeds_hold() {
    for seed in 0..60 {
        let ended = run(seed, u64::MAX, Trace::default());
        assert_eq!(ended.violation, None, "replay: cargo xtask sim --seed {seed} --trace");
    }
}

#[test]
fn two_runs_of_a_seed_tell_the_same_byte_by_byte() {
    for seed in 0..20 {
        let [first, second] = [0, 1].map(|_| run(seed, u64::MAX, Trace::on()).trace);
        assert!(first.text().lines().count() > 20, "seed {seed} tells hardly anything");
        assert!(first.text() == second.text(), "seed {seed} tells two stories");
    }
}

#[test]
fn another_seed_is_another_history() {
    let [first, second] = [1, 2].map(|seed| run(seed, u64::MAX, Trace::on()).trace);
    assert!(first.text() != second.text());
}
