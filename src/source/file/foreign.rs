//! Options of other systems.

/// Options of other systems, and what to do instead.
const FOREIGN: [(&str, &str); 11] = [
    ("inferschema", "columns that are not given are inferred: leave it out"),
    ("mergeschema", "columns that are not given are those of all files: leave it out"),
    ("path", "the location says where the files are: leave it out"),
    ("rescueddatacolumn", "schemaEvolution = rescue gives the column _rescued_data"),
    ("cloudfiles.format", "the format is that of the table: leave it out"),
    ("cloudfiles.schemaevolutionmode", "set schemaEvolution to none, warn, addNewColumns or rescue"),
    ("cloudfiles.schemalocation", "the checkpoint remembers the columns: leave it out"),
    ("cloudfiles.infercolumntypes", "types are inferred with the columns: leave it out"),
    ("ignoreleadingwhitespace", "values are read with the blanks beside them: trim(column) takes them off"),
    ("ignoretrailingwhitespace", "values are read with the blanks beside them: trim(column) takes them off"),
    ("maxrecordsperfile", "it says how files are written: it is an option of the table that is written to"),
];

/// What to do instead of an option of another system.
pub(super) fn instead_of(bare: &str) -> Option<&'static str> {
    let known = FOREIGN.iter().find(|(option, _)| *option == bare).map(|(_, instead)| *instead);
    let loader =
        || bare.starts_with("cloudfiles.").then_some("docs/options.md lists the options of file sources");
    known.or_else(loader)
}
