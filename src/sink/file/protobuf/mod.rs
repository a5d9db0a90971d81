//! Rows as messages of Protobuf's, by a description of their type.

mod shape;
mod values;

use datafusion::arrow::array::{BinaryArray, BinaryBuilder, RecordBatch};
use datafusion::arrow::datatypes::Schema;

use self::shape::{Member, members};
use self::values::Members;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::protobuf::{Description, MESSAGE};

/// What the format is called.
pub(super) const PROTOBUF: &str = "protobuf";

/// How rows become messages of one type.
#[derive(Debug, Clone)]
pub(super) struct ProtobufEncoding {
    members: Vec<Member>,
}

impl ProtobufEncoding {
    /// The encoding of rows with `columns`; takes its options out of `options`.
    pub(super) fn parse(columns: &Schema, options: &mut Options) -> Result<Self> {
        let Description { types, name } = Description::parse(options)?;
        let wrong = |reason: String| Error::option(MESSAGE, &name, reason);
        let message = types.message(&name).map_err(wrong)?;
        Ok(Self { members: members(message, &types, columns.fields(), 0).map_err(wrong)? })
    }

    /// A message for each of `rows`.
    pub(super) fn encode(&self, rows: &RecordBatch) -> Result<BinaryArray> {
        let failed = |reason: String| Error::Invalid(format!("rows cannot be written as protobuf: {reason}"));
        let members = Members::new(&self.members, rows.columns()).map_err(failed)?;
        let mut messages = BinaryBuilder::with_capacity(rows.num_rows(), 0);
        let mut message = Vec::new();
        for row in 0..rows.num_rows() {
            message.clear();
            members.write(row, &mut message).map_err(failed)?;
            messages.append_value(&message);
        }
        Ok(messages.finish())
    }
}
