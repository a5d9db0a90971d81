//! The names of Spark's functions.

use super::Session;

impl Session {
    /// Makes Spark's functions known that the session does not have under their names, and gives these names. A
    /// function that DataFusion, Tidemill or the user has by the same name stays what it is.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> tidemill::Result<()> {
    /// use tidemill::prelude::*;
    ///
    /// let session = Session::new();
    /// let names = session.use_spark_functions();
    /// assert!(names.contains(&"hex".to_string()) && !names.contains(&"abs".to_string()));
    /// let rows = session.context().sql("SELECT hex(255) AS digits").await?.collect().await?;
    /// let digits = datafusion::arrow::util::pretty::pretty_format_batches(&rows)?.to_string();
    /// assert!(digits.contains("FF"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn use_spark_functions(&self) -> Vec<String> {
        let context = self.context();
        let mut names = Vec::new();
        for function in datafusion_spark::all_default_scalar_functions() {
            let state = context.state();
            let known = state.scalar_functions();
            if names_of(function.name(), function.aliases()).all(|name| !known.contains_key(name)) {
                names.push(function.name().to_string());
                context.register_udf(function.as_ref().clone());
            }
        }
        for function in datafusion_spark::all_default_aggregate_functions() {
            let state = context.state();
            let known = state.aggregate_functions();
            if names_of(function.name(), function.aliases()).all(|name| !known.contains_key(name)) {
                names.push(function.name().to_string());
                context.register_udaf(function.as_ref().clone());
            }
        }
        names
    }
}

/// All names of a function.
fn names_of<'a>(name: &'a str, aliases: &'a [String]) -> impl Iterator<Item = &'a str> {
    std::iter::once(name).chain(aliases.iter().map(String::as_str))
}
