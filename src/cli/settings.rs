//! `--set key=value`.

use std::sync::Arc;

use datafusion::logical_expr::{LogicalPlan, SetVariable, Statement};
use tidemill::sql::SqlSession;
use tidemill::{Error, Options, Session, nearest};

use super::exit::Exit;
use super::{IfRunning, JobOptions};

/// Options that make sense for every streaming query.
const STREAMING: [&str; 2] = ["durability", "minBatchesToRetain"];

/// Whether Spark's functions are known by their names.
const SPARK_FUNCTIONS: &str = "sparkFunctions";

/// A new session with the settings of the command line.
pub(super) async fn session(options: &JobOptions) -> Result<Arc<SqlSession>, Exit> {
    let session = super::new_session();
    let mut streaming = Options::default();
    if let Some(policy) = options.if_running {
        streaming.set(IfRunning::OPTION, policy.name());
    }
    for (key, value) in &options.settings {
        if key.eq_ignore_ascii_case(SPARK_FUNCTIONS) {
            if Options::from_iter([(key, value)]).flag(key, false)? {
                session.use_spark_functions();
            }
        } else if STREAMING.iter().any(|known| known.eq_ignore_ascii_case(key)) {
            streaming.set(key, value);
        } else {
            set(&session, key, value).await?;
        }
    }
    Ok(Arc::new(SqlSession::new(session).with_trigger(options.trigger).with_options(streaming)))
}

async fn set(session: &Session, key: &str, value: &str) -> Result<(), Exit> {
    let context = session.context();
    let mut known: Vec<String> = STREAMING.iter().map(ToString::to_string).collect();
    // Of extensions only the ends of the names are listed.
    known.extend([SPARK_FUNCTIONS.to_string(), "tidemill.ansi_mode".to_string()]);
    known.extend(context.copied_config().options().entries().into_iter().map(|entry| entry.key));
    known.extend(context.runtime_env().config_entries().into_iter().map(|entry| entry.key));
    let lower = key.to_ascii_lowercase();
    if !known.contains(&lower) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(Exit::from(Error::UnknownOption {
            option: key.to_string(),
            context: "--set".to_string(),
            suggestion: nearest(key, &known).map(str::to_string),
        }));
    }
    let statement = Statement::SetVariable(SetVariable { variable: lower, value: value.to_string() });
    match context.execute_logical_plan(LogicalPlan::Statement(statement)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Exit::from(Error::InvalidOption {
            option: key.to_string(),
            value: value.to_string(),
            reason: Error::from(error).to_string(),
        })),
    }
}
