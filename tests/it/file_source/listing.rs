//! Directories with odd names, and directories that change while they are listed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::datatypes::DataType;
use tidemill::Error;
use tidemill::source::Admission;

use super::{Input, ab, json_lines, paths, schema};

#[cfg(unix)]
#[tokio::test]
async fn a_name_that_is_not_utf8_is_an_error_that_says_so_unless_it_is_hidden() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let input = Input::new();
    input.write("a.json", 1, json_lines(0..1));
    let odd = |name: &[u8]| input.dir.path().join(OsStr::from_bytes(name));
    std::fs::write(odd(b".upload-\xff.json"), json_lines(1..2)).unwrap();
    std::fs::write(odd(b"_part-\xff"), json_lines(2..3)).unwrap();
    std::fs::create_dir(odd(b"_temporary-\xff")).unwrap();
    std::fs::write(odd(b"_temporary-\xff/b.json"), json_lines(3..4)).unwrap();
    let reader = input.source("json", &ab(), &[]).await;
    assert_eq!(paths(&reader.plan().await), ["a.json"]);

    std::fs::write(odd(b"caf\xe9.json"), json_lines(4..5)).unwrap();
    let error = reader.source.plan(Admission::Limited).await.unwrap_err();
    assert!(matches!(error, Error::InputFile { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("caf") && text.contains("its name is not UTF-8. Rename it"), "{text}");

    // The next look, after it was renamed, takes it.
    std::fs::rename(odd(b"caf\xe9.json"), odd("café.json".as_bytes())).unwrap();
    assert_eq!(paths(&reader.plan().await), ["café.json"]);
}

/// Files and directories come and go all the time, beside files that stay.
#[tokio::test]
async fn what_vanishes_while_it_is_listed_is_passed_over() {
    let input = Input::new();
    let root = input.dir.path().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let churn = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stopped.load(Ordering::SeqCst) {
            let dir = root.join(format!("gone{}/deep", rounds % 7));
            std::fs::create_dir_all(&dir).unwrap();
            for file in 0..5 {
                std::fs::write(dir.join(format!("{file}.json")), "{}\n").unwrap();
                std::fs::write(root.join(format!("gone{file}.json")), "{}\n").unwrap();
            }
            for file in 0..5 {
                std::fs::remove_file(root.join(format!("gone{file}.json"))).unwrap();
            }
            std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
            rounds += 1;
        }
    });
    let reader = input.source("json", &ab(), &[("recursiveFileLookup", "true")]).await;
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut round = 0;
    // Until one of the others was seen, too, which takes longer where the two share a core.
    while round < 300 || taken.len() <= 100 {
        if round % 3 == 0 && round < 300 {
            // As new as the others: what is much older than the newest file is not read.
            std::fs::write(input.path(&format!("stay{round}.json")), json_lines(0..1)).unwrap();
        }
        for path in paths(&reader.plan().await) {
            *taken.entry(path).or_default() += 1;
        }
        round += 1;
    }
    stop.store(true, Ordering::SeqCst);
    churn.join().unwrap();
    // Where the kernel had more to say than fits into its queue, the age of a file tells that it is complete.
    loop {
        for path in paths(&reader.plan().await) {
            *taken.entry(path).or_default() += 1;
        }
        if !reader.source.is_waiting() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let stay: Vec<&usize> =
        taken.iter().filter(|(path, _)| path.starts_with("stay")).map(|(_, count)| count).collect();
    assert_eq!(stay, [&1; 100]);
}

/// Whatever format the files of a pattern are read in, and whatever the sink writes.
#[tokio::test]
async fn a_pattern_that_takes_what_is_written_beside_it_reads_there() {
    let input = Input::new();
    input.write("in/a.txt", 1, "x\n");
    input.write("in/sub/a.txt", 1, "x\n");
    let url = |below: &str| url::Url::from_directory_path(input.path(below)).unwrap();
    for (format, pattern, reads_in, reads_in_sub) in [
        ("text", "in/*.txt", true, false),
        ("text", "in/*.json", true, false),
        ("text", "in/*/*", false, true),
        ("csv", "in/*.bz2", true, false),
        ("json", "in/*.log", false, false),
        ("parquet", "in/**/*.snappy.parquet", true, true),
    ] {
        let columns = if format == "text" { schema(&[("line", DataType::Utf8)]) } else { ab() };
        let table = input.resolve(format, pattern, Some(columns), &[]).await.unwrap();
        assert_eq!(table.reads_at(&url("in")), reads_in, "{format} {pattern}");
        assert_eq!(table.reads_at(&url("in/sub")), reads_in_sub, "{format} {pattern}");
    }
}
