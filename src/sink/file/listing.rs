//! DataFusion's memory of what is in which directory.

use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::path::Path;
use url::Url;

/// Makes the session forget listings of `output`, of directories in it and of directories that it
/// is in, as DataFusion's own `INSERT` does: batch queries shall see what was just published.
pub(super) fn forget(runtime: &RuntimeEnv, output: &Url) {
    let Some(cache) = runtime.cache_manager.get_list_files_cache() else { return };
    if cache.is_empty() {
        return;
    }
    let Ok(output) = Path::from_url_path(output.path()) else {
        cache.clear();
        return;
    };
    for listed in cache.list_entries().into_keys() {
        if listed.path.prefix_matches(&output) || output.prefix_matches(&listed.path) {
            cache.remove(&listed);
        }
    }
}
