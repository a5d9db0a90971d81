//! `tidemill bad-records`: records that were put aside are mended and come once.

use super::Folder;

const JOB: &str = "
    CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, day VARCHAR) STORED AS FORMAT PARTITIONED BY (day)
      LOCATION 'in' OPTIONS ('badRecordsPath' 'bad', 'maxFilesPerTrigger' '1' HEADER);
    CREATE EXTERNAL TABLE output STORED AS JSON LOCATION 'out';
    CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'checkpoint' OPTIONS ('durability' 'process')
    AS INSERT INTO output SELECT id, day FROM input;";

fn run(folder: &Folder, arguments: &[&str]) -> String {
    let (code, out, err) = folder.run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    out
}

/// What was written, sorted.
fn rows(folder: &Folder) -> Vec<String> {
    let mut rows = Vec::new();
    for file in std::fs::read_dir(folder.0.path().join("out")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            rows.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_string));
        }
    }
    rows.sort();
    rows
}

/// Changes the files of records that were put aside, as people do with an editor.
fn mend(folder: &Folder, from: &str, to: &str) -> usize {
    let mut mended = 0;
    for file in walkdir::WalkDir::new(folder.0.path().join("bad")).into_iter().flatten() {
        let is_retried = file.path().components().any(|part| part.as_os_str() == "retried");
        if file.file_type().is_file() && !is_retried {
            let text = std::fs::read_to_string(file.path()).unwrap();
            mended += text.matches(from).count();
            std::fs::write(file.path(), text.replace(from, to)).unwrap();
        }
    }
    mended
}

#[test]
fn records_that_are_mended_come_once() {
    for (format, header, good, bad) in [
        ("JSON", None, "{\"id\":1}\n", ["{\"id\":oops}\n", "{\"id\":\"zwei\"}\n"]),
        ("CSV", Some("id"), "1\n", ["oops\n", "zwei\n"]),
    ] {
        let folder = Folder::new();
        let extension = format.to_lowercase();
        let head = header.map_or(String::new(), |header| format!("{header}\n"));
        folder.write(&format!("in/day=a/1.{extension}"), &(head.clone() + good + bad[0] + bad[1]));
        folder.write(&format!("in/day=b/2.{extension}"), &(head + good));
        let options = if header.is_some() { ", 'header' 'true'" } else { "" };
        folder.write("job.sql", &JOB.replace("FORMAT", format).replace(" HEADER", options));
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        assert_eq!(rows(&folder), ["{\"id\":1,\"day\":\"a\"}", "{\"id\":1,\"day\":\"b\"}"]);

        let listed = run(&folder, &["bad-records", "list", "bad", "--format", "ndjson"]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        assert!(
            listed.contains("day=a/1.") && listed.contains("\"line\":") && listed.contains("oops"),
            "{listed}"
        );

        // One is mended well, the other not.
        assert!(mend(&folder, "oops", "5") > 0 && mend(&folder, "zwei", "drei") > 0);
        let mut retry = vec!["bad-records", "retry", "bad"];
        retry.extend(header.map(|header| ["--header", header]).into_iter().flatten());
        let dry = run(&folder, &[retry.as_slice(), &["--dry-run"]].concat());
        assert!(dry.starts_with("would feed 2 records back as file://"), "{dry}");
        let told = run(&folder, &retry);
        assert!(
            told.starts_with("fed 2 records back as file://") && told.contains("day=a/1-retried-"),
            "{told}"
        );
        let told = run(&folder, &retry);
        assert!(told.contains("there are no records in bad that were not fed back"), "{told}");
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        let expected = ["{\"id\":1,\"day\":\"a\"}", "{\"id\":1,\"day\":\"b\"}", "{\"id\":5,\"day\":\"a\"}"];
        assert_eq!(rows(&folder), expected, "{format}");

        // What is malformed again is put aside again, as a record of the new file; a removed line stays away.
        let listed = run(&folder, &["bad-records", "list", "bad", "--format", "ndjson"]);
        assert!(
            listed.lines().count() == 1 && listed.contains("1-retried-") && listed.contains("drei"),
            "{listed}"
        );
        for file in walkdir::WalkDir::new(folder.0.path().join("bad")).into_iter().flatten() {
            if file.file_type().is_file() && file.path().display().to_string().contains("-retried-") {
                std::fs::write(file.path(), "").unwrap();
            }
        }
        assert!(run(&folder, &retry).contains("nothing is left in it"));
        run(&folder, &["run", "job.sql", "--progress", "none"]);
        assert_eq!(rows(&folder), expected, "{format}");
    }
}

/// The command dies between its two steps: the records come once all the same.
#[test]
fn a_retry_that_died_half_way_is_finished() {
    let folder = Folder::new();
    folder.write("in/day=a/1.json", "{\"id\":oops}\n");
    folder.write("job.sql", &JOB.replace("FORMAT", "JSON").replace(" HEADER", ""));
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    mend(&folder, "oops", "5");
    let files = |name: &str| -> Vec<std::path::PathBuf> {
        let all = walkdir::WalkDir::new(folder.0.path().join(name)).into_iter().flatten();
        all.filter(|file| file.file_type().is_file()).map(|file| file.into_path()).collect()
    };
    let aside = files("bad").remove(0);
    let text = std::fs::read(&aside).unwrap();
    run(&folder, &["bad-records", "retry", "bad"]);
    // As if it had not been moved.
    std::fs::remove_dir_all(folder.0.path().join("bad/retried")).unwrap();
    std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
    std::fs::write(&aside, &text).unwrap();
    let told = run(&folder, &["bad-records", "retry", "bad"]);
    assert!(told.contains("(that was there already)"), "{told}");
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    assert_eq!(rows(&folder), ["{\"id\":5,\"day\":\"a\"}"]);

    // Other records under the same name are not taken for those.
    std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
    std::fs::write(&aside, String::from_utf8(text).unwrap().replace(":5}", ":6}")).unwrap();
    let (code, _, err) = folder.run(&["bad-records", "retry", "bad"]);
    assert!(code == 1 && err.contains("were fed back already"), "{err}");
}

fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Runs a query over one file with one bad record, mends that, feeds it back, and gives what came of it, or why it
/// was not fed back.
fn fed_back(
    format: &str,
    file: &str,
    content: &[u8],
    options: &str,
    more: &[&str],
) -> Result<Vec<String>, String> {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.0.path().join("in")).unwrap();
    std::fs::write(folder.0.path().join("in").join(file), content).unwrap();
    let location = if options.is_empty() { "in/20*-*.json" } else { "in" };
    let header = if format == "CSV" { ", 'header' 'true'" } else { "" };
    folder.write(
        "job.sql",
        &format!(
            "CREATE UNBOUNDED EXTERNAL TABLE input (id BIGINT, name VARCHAR) STORED AS {format} LOCATION '{location}'
               OPTIONS ('badRecordsPath' 'bad', 'minFileAge' '0s' {header} {options});
             CREATE EXTERNAL TABLE output STORED AS JSON LOCATION 'out';
             CREATE STREAMING QUERY q TRIGGER AVAILABLE NOW CHECKPOINT LOCATION 'checkpoint'
               OPTIONS ('durability' 'process') AS INSERT INTO output SELECT id, name FROM input;"
        ),
    );
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    assert!(mend(&folder, "oops", "2") > 0, "{format} {options}");
    let (code, out, err) = folder.run(&[&["bad-records", "retry", "bad"], more].concat());
    if code != 0 {
        assert_eq!(std::fs::read_dir(folder.0.path().join("in")).unwrap().count(), 1);
        assert!(mend(&folder, "path", "path") > 0, "it is still there");
        return Err(err);
    }
    assert!(out.starts_with("fed 1 records back"), "{out}");
    run(&folder, &["run", "job.sql", "--progress", "none"]);
    Ok(rows(&folder))
}

#[test]
fn records_are_fed_back_in_files_like_those_of_the_source() {
    let (csv, json) =
        ("id,name\n1,Jos\u{e9}\noops,Ren\u{e9}e\n", "{\"id\":1,\"name\":\"a\"}\n{\"id\":\"oops\"}\n");
    let latin: Vec<u8> = csv.chars().map(|char| char as u8).collect();
    let both = ["{\"id\":1,\"name\":\"Jos\u{e9}\"}", "{\"id\":2,\"name\":\"Ren\u{e9}e\"}"];
    let head = ["--header", "id,name"];
    for (file, content, options) in [
        ("a.csv", latin, ", 'encoding' 'ISO-8859-1'"),
        ("a.csv", utf16(csv), ", 'encoding' 'UTF-16'"),
        ("a.csv", gzip(csv), ", 'compression' 'gzip'"),
        ("a.csv.gz", gzip(csv), ", 'mode' 'FAILFAST'"),
        ("a.gz", csv.as_bytes().to_vec(), ", 'compression' 'uncompressed'"),
        ("a.csv", csv.replace('\n', ";").into_bytes(), ", 'lineSep' ';'"),
    ] {
        let options = options.replace(", 'mode' 'FAILFAST'", ", 'maxFilesPerTrigger' '1'");
        assert_eq!(
            fed_back("CSV", file, &content, &options, &head),
            Ok(both.map(String::from).to_vec()),
            "{options}"
        );
    }
    let document = format!("[{}]", json.trim().replace('\n', ","));
    let found = fed_back("JSON", "a.json", document.as_bytes(), ", 'multiLine' 'true'", &[]);
    assert_eq!(found.unwrap(), ["{\"id\":1,\"name\":\"a\"}", "{\"id\":2}"]);

    // What would not be read is said before anything is done.
    let error = fed_back("CSV", "a.csv", csv.as_bytes(), ", 'maxFilesPerTrigger' '1'", &[]).unwrap_err();
    assert!(error.contains("its files have a header: give its line with --header"), "{error}");
    let (glob, lines) = (", 'pathGlobFilter' '????-??.json'", json.as_bytes());
    let error = fed_back("JSON", "2024-01.json", lines, glob, &[]).unwrap_err();
    assert!(error.contains("reads only '????-??.json' (pathGlobFilter), which '2024-01-retried-"), "{error}");
    let any = ", 'pathGlobFilter' '2024-*.json'";
    assert_eq!(fed_back("JSON", "2024-01.json", lines, any, &[]).unwrap().len(), 2);
    assert_eq!(
        fed_back("JSON", "2024-01.json", lines, "", &[]).unwrap().len(),
        2,
        "a pattern as the location"
    );
}

/// Messages are shown as records of files are, and are still where they came from.
#[test]
fn messages_of_topics_are_shown_and_not_fed_back() {
    let folder = Folder::new();
    let aside = concat!(
        r#"{"path":"kafka:clicks/3","offset":0,"record":"oops","reason":"column 'id': no number"}"#,
        "\n",
        r#"{"path":"kafka:clicks/3","offset":17,"record":"ff00","reason":"no UTF-8","encoding":"hex"}"#,
        "\n"
    );
    let place = "bad/0198b7a3-0000-7000-8000-000000000000/4/clicks-3.json";
    folder.write(place, aside);
    let listed = run(&folder, &["bad-records", "list", "bad", "--format", "ndjson"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].contains("kafka:clicks/3") && lines[0].contains("\"line\":0"), "{listed}");
    assert!(lines[1].contains("\"line\":17") && lines[1].contains("ff00"), "{listed}");
    let (code, _, err) = folder.run(&["bad-records", "retry", "bad"]);
    assert!(code == 1 && err.contains("messages of kafka:clicks/3"), "{err}");
    assert!(err.contains("nothing of it was fed back"), "{err}");
    assert_eq!(std::fs::read_to_string(folder.0.path().join(place)).unwrap(), aside);
}

/// What is wrong with one file does not keep the records of the others.
#[test]
fn one_file_that_cannot_be_fed_back_does_not_keep_the_others() {
    let folder = Folder::new();
    let query = "bad/0198b7a3-0000-7000-8000-000000000000";
    let input = url::Url::from_file_path(folder.0.path().join("in/a.json")).unwrap();
    let of_file = format!("{{\"path\":\"{input}\",\"line\":1,\"record\":\"{{}}\",\"reason\":\"none\"}}\n");
    folder.write("in/a.json", "x\n");
    folder.write(
        &format!("{query}/1/t-0.json"),
        r#"{"path":"kafka:t/0","offset":0,"record":"x","reason":"none"}"#,
    );
    folder.write(&format!("{query}/2/b.json"), "no record\n");
    folder.write(&format!("{query}/3/a.json"), &of_file);
    let (code, out, err) = folder.run(&["bad-records", "list", "bad"]);
    assert!(code == 2 && out.contains("a.json") && err.contains("2/b.json' is not a record"), "{out}{err}");
    let (code, out, err) = folder.run(&["bad-records", "retry", "bad"]);
    assert!(code == 1 && out.contains("fed 1 records back"), "{out}{err}");
    assert!(err.contains("messages of kafka:t/0") && err.contains("2/b.json' is not a record"), "{err}");
    assert_eq!(std::fs::read_dir(folder.0.path().join("in")).unwrap().count(), 2);
    // The others are still there, and that one is not.
    let (_, out, _) = folder.run(&["bad-records", "retry", "bad"]);
    assert_eq!(out, "");
}
