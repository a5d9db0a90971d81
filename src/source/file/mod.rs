//! The file source: a directory of files that more files are put into.
