//! Which snapshots were read back and found sound in this process's life: reading hundreds of
//! megabytes again at each purge would prove little more.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::snapshot::frame::Pace;
use crate::snapshot::load;

/// By path, when the manifest was last changed: a snapshot that was written anew is another one.
static SOUND: LazyLock<papaya::HashMap<PathBuf, std::time::SystemTime>> =
    LazyLock::new(papaya::HashMap::new);

/// Whether the snapshot at `path` is sound.
pub fn is_sound(path: &Path, pace: Pace) -> bool {
    let manifest = path.join(crate::snapshot::frame::Kind::Manifest.file_name(0));
    let Ok(changed) = std::fs::metadata(manifest).and_then(|manifest| manifest.modified()) else {
        return false;
    };
    if SOUND.pin().get(path) == Some(&changed) {
        return true;
    }
    let sound = load::verify(path, pace).is_ok();
    if sound {
        SOUND.pin().insert(path.to_owned(), changed);
    }
    sound
}

/// Forgets a snapshot that is deleted.
pub fn forget(path: &Path) {
    SOUND.pin().remove(path);
}
