//! Spans that are sent to a collector of OpenTelemetry.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::Folder;

/// A collector: the bodies of the requests to `/v1/traces`.
fn collector() -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, bodies) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            loop {
                let (mut first, mut length) = (String::new(), 0);
                if reader.read_line(&mut first).unwrap_or(0) == 0 {
                    break;
                }
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 0 && !line.trim().is_empty() {
                    let lower = line.to_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                assert_eq!(first, "POST /v1/traces HTTP/1.1\r\n");
                kept.lock().unwrap().push(body);
                reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    });
    (format!("http://{address}"), bodies)
}

/// The fields of a Protobuf message that have a length, by their numbers.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn number(message: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = number(&mut message);
        let length = match tag & 7 {
            0 => {
                number(&mut message);
                continue;
            }
            1 => 8,
            2 => usize::try_from(number(&mut message)).unwrap(),
            5 => 4,
            other => panic!("{other} is no type of a field"),
        };
        let (field, rest) = message.split_at(length);
        message = rest;
        if tag & 7 == 2 {
            found.push((tag >> 3, field));
        }
    }
    found
}

/// What is in the fields `path` of `message`, one in another.
fn at<'a>(message: &'a [u8], path: &[u64]) -> Vec<&'a [u8]> {
    let Some((first, rest)) = path.split_first() else { return vec![message] };
    let inner = fields(message).into_iter().filter(|(number, _)| number == first);
    inner.flat_map(|(_, field)| at(field, rest)).collect()
}

#[test]
fn spans_of_queries_batches_and_phases_are_sent_to_a_collector() {
    let (url, bodies) = collector();
    let folder = Folder::new();
    folder.write("in/a.json", "{\"id\":1}\n");
    let arguments = ["etl", "in", "out", "--checkpoint", "cp", "--progress", "none"];
    let run = |name: &str, value: &str| {
        let command = std::process::Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(arguments)
            .current_dir(folder.0.path())
            .env_remove("TIDEMILL_LOG")
            .env(name, value)
            .output()
            .unwrap();
        assert!(command.status.success(), "{command:?}");
        String::from_utf8_lossy(&command.stderr).into_owned()
    };
    run("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    let bodies = bodies.lock().unwrap();
    // ExportTraceServiceRequest.resource_spans.scope_spans.spans.name
    let names = bodies.iter().flat_map(|body| at(body, &[1, 2, 2, 5]));
    let names: BTreeSet<&str> = names.map(|name| std::str::from_utf8(name).unwrap()).collect();
    let expected = [
        "addBatch",
        "batch",
        "commitOffsets",
        "latestOffset",
        "publish",
        "query",
        "queryPlanning",
        "walCommit",
    ];
    assert_eq!(names, expected.into());
    // .resource.attributes: service.name
    let attributes: Vec<&[u8]> = bodies.iter().flat_map(|body| at(body, &[1, 1, 1, 2, 1])).collect();
    assert!(attributes.contains(&&b"tidemill"[..]), "{attributes:?}");
    // Whoever is not there is told of, and keeps nothing from being done.
    let told = run("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces");
    assert!(told.contains("traces do not get to http://127.0.0.1:9/v1/traces"), "{told}");
}
