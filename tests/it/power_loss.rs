//! The real disk code on a simulated disk whose power goes at every call that changes something:
//! whatever POSIX lets the disk forget, no committed row is lost and none comes twice.

use crate::support::sim_disk::{DiskFault, Links, SimDisk};
use crate::support::sim_query::SimQuery;

const BATCHES: i64 = 3;

/// Cuts the power at every step of a run, in the given ways; gives the first problem.
async fn cut_everywhere(durability: &str, links: Links, seeds: &[u64]) -> Result<(), String> {
    let query = SimQuery::new(BATCHES, durability);
    let undisturbed = SimDisk::with_links(links);
    query.run(&undisturbed).await.unwrap();
    let steps = undisturbed.steps();
    assert!(steps > 40, "only {steps} steps");
    query.heal(&undisturbed).await?;

    for step in 0..steps {
        let disk = SimDisk::with_links(links);
        disk.fail_at(step, DiskFault::DieBefore);
        query.run(&disk).await.unwrap_err();
        for seed in seeds {
            let seed = if *seed < 2 { *seed } else { *seed + step as u64 };
            let disk = disk.after_power_cut(seed);
            let problem = |problem| format!("power cut (seed {seed}) at step {step} of {steps}: {problem}");
            query.heal(&disk).await.map_err(problem)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_power_cut_anywhere_loses_and_doubles_nothing() {
    cut_everywhere("disk", Links::Hard, &[0, 1, 2, 100_000]).await.unwrap();
}

#[tokio::test]
async fn a_power_cut_on_a_disk_without_hard_links_loses_and_doubles_nothing() {
    cut_everywhere("disk", Links::ExclusiveRename, &[0, 2]).await.unwrap();
}

#[tokio::test]
async fn without_fsync_a_power_cut_does_damage() {
    // That the tests above could fail: the same run, but with durability=process.
    let problem = cut_everywhere("process", Links::Hard, &[0, 2]).await.unwrap_err();
    assert!(problem.starts_with("power cut"), "{problem}");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_any_disk_operation_loses_and_doubles_nothing() {
    let query = SimQuery::new(BATCHES, "process");
    let undisturbed = SimDisk::new();
    query.run(&undisturbed).await.unwrap();
    for step in 0..undisturbed.steps() {
        for fault in [DiskFault::DieBefore, DiskFault::DieAfter, DiskFault::Tear] {
            let disk = SimDisk::new();
            disk.fail_at(step, fault);
            query.run(&disk).await.unwrap_err();
            if let Err(problem) = query.heal(&disk.after_kill()).await {
                panic!("after {fault:?} at step {step}: {problem}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_reported_as_done_survives_a_power_cut() {
    let query = SimQuery::new(BATCHES, "disk");
    let disk = SimDisk::new();
    query.run(&disk).await.unwrap();
    for seed in 0..20 {
        let (rows, _) = query.output(&disk.after_power_cut(seed)).await;
        crate::support::oracle::assert_same(rows, query.expected.rows.clone(), &format!("seed {seed}"));
    }
}
