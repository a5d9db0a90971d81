//! The direction of imports: each layer uses only those below it (`docs/architecture.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from the bottom up. A layer imports only from those before it; of those that stand
/// side by side only [`FOUNDATION`] know one another.
const LAYERS: [&[&str]; 16] = [
    &FOUNDATION,
    &["storage"],
    &["checkpoint"],
    &["types", "memory", "avro", "protobuf", "text"],
    &["state"],
    &["source", "sink"],
    &["postgres"],
    &["functions"],
    &["exec"],
    &["plan"],
    &["query"],
    &["session"],
    &["conformance"],
    &["sql"],
    &["cli"],
    &["main"],
];

/// What everything else is made with.
const FOUNDATION: [&str; 4] = ["error", "clock", "id", "options"];

/// The files below these may not mention the crates of the query engine…
const WITHOUT_ENGINE: [&str; 2] = ["checkpoint", "storage"];
/// …except for those that ask DataFusion's runtime for the object store behind a URL.
const MAY_KNOW_OBJECT_STORES: [&str; 1] = ["storage/provider.rs"];

/// A Rust file of the crate.
struct SourceFile {
    /// Below `src/`, with `/` between parts.
    path: String,
    /// Its text, without comments and string literals.
    code: String,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_string(), code: strip(text) }
    }

    /// The names of the modules around and including this file, from the crate's root.
    fn module(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        path.split('/').filter(|part| *part != "mod").collect()
    }
}

#[test]
fn imports_point_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = read_all(&root);
    assert!(files.len() > 30, "only {} files found below {}", files.len(), root.display());
    let found: Vec<String> = files.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Files of one folder that still import one another, until they are untied. Nothing may be added.
const TIED: [&[&str]; 2] =
    [&["plan/stateful/aggregate", "plan/stateful/rewrite"], &["source/file/format", "source/file/records"]];

#[test]
fn files_of_one_folder_do_not_import_one_another_in_circles() {
    let files = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut found = circles(&files);
    found.sort();
    assert_eq!(found, TIED.map(<[&str]>::to_vec), "what was untied is taken from the list");
}

#[test]
fn circles_are_found() {
    let file = |path: &str, code: &str| SourceFile::new(path, code);
    let tied = [
        file("plan/mod.rs", "mod a; mod b; pub use a::A;"),
        file("plan/a.rs", "use super::b::{self, B as Other}; use super::c::C;"),
        file("plan/b/mod.rs", "mod deep;"),
        file("plan/b/deep.rs", "fn f() { super::super::c::g() }"),
        file("plan/c.rs", "use crate::{error::Error, plan::{d::D, a::{A, inner::X}}};"),
        file("plan/d.rs", "use super::A;"),
        file("exec/x.rs", "use super::y::Y;"),
        file("exec/y.rs", "/// [`super::x::X`]\nstruct Y;"),
    ];
    assert_eq!(circles(&tied), [["plan/a", "plan/b", "plan/c"]]);
}

#[test]
fn the_rules_can_be_broken() {
    let cases = [
        ("checkpoint/log.rs", "use crate::source::Source;", "checkpoint must not use source"),
        ("source/file/mod.rs", "use crate::sink::Sink;", "source must not use sink"),
        ("sink/file/mod.rs", "fn f() { crate::source::file::list() }", "sink must not use source"),
        ("query/batch.rs", "use crate::session::Session;", "query must not use session"),
        (
            "storage/local.rs",
            "use crate::{error::Result, checkpoint::Checkpoint};",
            "storage must not use checkpoint",
        ),
        (
            "checkpoint/a.rs",
            "use {crate::{\n    error::{Error, Result},\n    query::Trigger,\n}};",
            "checkpoint must not use query",
        ),
        ("source/mod.rs", "use super::sink::Sink;", "source must not use sink"),
        ("source/file/list.rs", "use super::super::super::plan::X;", "source must not use plan"),
        ("exec/scan.rs", "use crate::plan::StreamingPlan;", "exec must not use plan"),
        ("sql/run.rs", "use crate::cli::Arguments;", "sql must not use cli"),
        (
            "sink/mod.rs",
            "use crate::OutputMode;",
            "sink must import OutputMode from its module, not from the crate's root",
        ),
        (
            "newcomer.rs",
            "use crate::error::Result;",
            "newcomer is in no layer: add it to the table in tests/it/layers.rs",
        ),
        ("checkpoint/b.rs", "use datafusion::arrow::array::Array;", "checkpoint must not know datafusion"),
        ("storage/disk.rs", "fn f(x: arrow::array::ArrayRef) {}", "storage must not know arrow"),
    ];
    for (path, text, expected) in cases {
        let found = violations(&SourceFile::new(path, text));
        assert!(found.iter().any(|line| line.ends_with(expected)), "{path}: {text}: {found:?}");
    }
    let fine = [
        ("plan/prepared.rs", "use crate::exec::scan::StreamScanExec;"),
        ("exec/sink.rs", "use crate::sink::Sink; use super::epoch::Epoch;"),
        (
            "checkpoint/log.rs",
            "/// See [`crate::query::Trigger`].\nuse crate::storage::Storage; // crate::session",
        ),
        ("checkpoint/log.rs", r#"const TEXT: &str = "use crate::session::Session; // datafusion";"#),
        ("storage/provider.rs", "use datafusion::execution::runtime_env::RuntimeEnv;"),
    ];
    for (path, text) in fine {
        assert_eq!(violations(&SourceFile::new(path, text)), Vec::<String>::new());
    }
}

fn read_all(root: &Path) -> Vec<SourceFile> {
    let mut pending = vec![PathBuf::new()];
    let mut files = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            let name = path.to_str().unwrap().replace('\\', "/");
            if root.join(&path).is_dir() {
                pending.push(path);
            } else if name.ends_with(".rs") && name != "lib.rs" {
                files.push(SourceFile::new(&name, &fs::read_to_string(root.join(&path)).unwrap()));
            }
        }
    }
    files
}

/// Groups of modules side by side of which each imports every other one, perhaps over further ones. What
/// is below a module counts as the module.
fn circles(files: &[SourceFile]) -> Vec<Vec<String>> {
    let modules: BTreeSet<Vec<String>> = files.iter().map(|file| names(&file.module())).collect();
    let mut imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in files {
        let module = file.module();
        for path in paths(&file.code, &module) {
            let same = path.iter().zip(&module).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (module.get(..=same), path.get(..=same)) else { continue };
            // Layers have rules of their own.
            if same > 0 && modules.contains(to) {
                imports.entry(names(from)).or_default().insert(to.to_vec());
            }
        }
    }
    let reach = |from: &Vec<String>| {
        let mut reached = BTreeSet::new();
        let mut pending = vec![from];
        while let Some(next) = pending.pop() {
            pending
                .extend(imports.get(next).into_iter().flatten().filter(|to| reached.insert((*to).clone())));
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|from| (from, reach(from))).collect();
    let circle_of = |module: &Vec<String>| {
        let others =
            reached[module].iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(module)));
        others.map(|to| to.join("/")).collect::<Vec<_>>()
    };
    let circles: BTreeSet<Vec<String>> =
        imports.keys().map(circle_of).filter(|circle| !circle.is_empty()).collect();
    circles.into_iter().collect()
}

fn names(module: &[&str]) -> Vec<String> {
    module.iter().map(|part| (*part).to_string()).collect()
}

fn violations(file: &SourceFile) -> Vec<String> {
    let module = file.module();
    let layer = module[0];
    let Some(height) = height(layer) else {
        return vec![format!(
            "src/{}: {layer} is in no layer: add it to the table in tests/it/layers.rs",
            file.path
        )];
    };
    let mut found = Vec::new();
    for path in paths(&file.code, &module) {
        let Some(target) = path.first() else { continue };
        let problem = match self::height(target) {
            _ if target == layer => None,
            Some(other) if other < height || both_at_the_bottom(layer, target) => None,
            Some(_) => Some(format!("{layer} must not use {target}")),
            None if target.starts_with(|c: char| c.is_uppercase()) && layer != "main" => {
                Some(format!("{layer} must import {target} from its module, not from the crate's root"))
            }
            None => None,
        };
        found.extend(problem.map(|problem| format!("src/{}: {problem}", file.path)));
    }
    if WITHOUT_ENGINE.contains(&layer) && !MAY_KNOW_OBJECT_STORES.contains(&file.path.as_str()) {
        for engine in ["arrow", "datafusion", "parquet"] {
            if words(&file.code).any(|word| word == engine || word.starts_with(&format!("{engine}_"))) {
                found.push(format!("src/{}: {layer} must not know {engine}", file.path));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn height(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|layers| layers.contains(&layer))
}

fn both_at_the_bottom(a: &str, b: &str) -> bool {
    FOUNDATION.contains(&a) && FOUNDATION.contains(&b)
}

/// Every path in `code` that starts at the crate's root, or leaves `module` upwards to it, as the
/// names below the root. A braced import counts as one path per branch.
fn paths(code: &str, module: &[&str]) -> Vec<Vec<String>> {
    let tokens = tokenize(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = at == 0 || tokens[at - 1] != "::";
        // `mod tests` inside a file is one module deeper, which only makes `super` mean less.
        let base = match tokens[at].as_str() {
            "crate" if starts_path => Some((Vec::new(), at + 1)),
            "super" if starts_path => climb(&tokens, at, module),
            _ => None,
        };
        match base {
            Some((base, next)) if tokens.get(next).is_some_and(|token| token == "::") => {
                at = branches(&tokens, next + 1, &base, &mut found);
            }
            _ => at += 1,
        }
    }
    found
}

/// Where `super::super…` leads from `module`, and the index after it.
fn climb(tokens: &[String], mut at: usize, module: &[&str]) -> Option<(Vec<String>, usize)> {
    let mut base: Vec<String> = module.iter().map(|part| (*part).to_string()).collect();
    base.pop()?;
    while tokens.get(at + 1).is_some_and(|token| token == "::")
        && tokens.get(at + 2).is_some_and(|token| token == "super")
    {
        base.pop()?;
        at += 2;
    }
    Some((base, at + 1))
}

/// Reads the paths that go on from `base::` at `at`, and gives the index after them.
fn branches(tokens: &[String], mut at: usize, base: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token == text);
    let mut path = base.to_vec();
    while let Some(name) = tokens.get(at).filter(|_| !is(at, "{")) {
        path.push(name.clone());
        if !is(at + 1, "::") {
            found.push(path);
            return at + 1;
        }
        at += 2;
    }
    at += 1;
    while at < tokens.len() && !is(at, "}") {
        // What a branch is called in this file says nothing.
        at = if is(at, ",") || is(at, "as") || is(at - 1, "as") {
            at + 1
        } else {
            branches(tokens, at, &path, found)
        };
    }
    at + 1
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Words, `::`, and single other characters.
fn tokenize(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let length = if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !token.trim().is_empty() {
            tokens.push(token.to_string());
        }
        rest = after;
    }
    tokens
}

/// `text` without comments and without what is inside string literals.
fn strip(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(end) = raw_string(rest) {
            end
        } else if c == '"' {
            string_end(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(1, |end| end + 2)
        } else {
            code.push(c);
            c.len_utf8()
        };
        if skip > c.len_utf8() {
            code.push(' ');
        }
        rest = &rest[skip..];
    }
    code
}

/// The length of the raw string literal that `rest` starts with, if it does.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(1 + hashes + 1 + length)
}

/// The length of the string literal that `rest` starts with.
fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    rest.len()
}
