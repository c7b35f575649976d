//! `ringkeeper import` and `ringkeeper export`: a server's data, to and from Apache's formats.

use std::path::PathBuf;

use crate::cli::{Exit, complain};
use crate::io::clock;
use crate::log::SEGMENT_BYTES_DEFAULT;
use crate::log::recover::Options;
use crate::snapshot::java::Compression;
use crate::snapshot::load::LoadOptions;
use crate::snapshot::migrate::{self, ImportOptions, MigrateError, Places};
use crate::tree::writer::TreeConfig;
use crate::zxid::Zxid;

/// Whose data goes where: a `dataDir` and a `dataLogDir` of either.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub java_data: PathBuf,
    pub java_log: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    /// Whether Apache's snapshot without a log is all there is.
    pub snapshot_alone: bool,
}

/// `ringkeeper import`.
pub fn import(dirs: &Dirs) -> Exit {
    let (data, log) = (version_2(&dirs.data), version_2(&dirs.log));
    let outcome = options().and_then(|options| {
        let options = ImportOptions { snapshot_alone: dirs.snapshot_alone, ..options };
        // What reads Apache's files knows where they are below these.
        let java = Places { data: &dirs.java_data, log: &dirs.java_log };
        let ours = Places { data: &data, log: &log };
        migrate::import(java, ours, &options).map_err(Failure::Migrate)
    });
    match outcome {
        Ok(imported) => {
            println!(
                "imported {} znodes and {} sessions up to zxid {}: {} transactions replayed, {} \
                 digests compared",
                imported.figures.nodes,
                imported.figures.sessions,
                imported.zxid,
                imported.replayed,
                imported.digests_checked
            );
            Exit::Ok
        }
        Err(failure) => refused(&failure),
    }
}

/// `ringkeeper export`.
pub fn export(dirs: &Dirs) -> Exit {
    let (data, log) = (version_2(&dirs.data), version_2(&dirs.log));
    let outcome = options().and_then(|options| {
        let ours = Places { data: &data, log: &log };
        migrate::export(ours, &dirs.java_data, &options, Compression::None)
            .map_err(Failure::Migrate)
    });
    match outcome {
        Ok(path) => {
            println!("exported to {}", path.display());
            Exit::Ok
        }
        Err(failure) => refused(&failure),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Migrate(MigrateError),
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
}

fn refused(failure: &Failure) -> Exit {
    complain(&failure.to_string());
    Exit::Data
}

fn version_2(dir: &std::path::Path) -> PathBuf {
    dir.join("version-2")
}

fn options() -> Result<ImportOptions, Failure> {
    let random = || getrandom::u64().map_err(Failure::Random);
    Ok(ImportOptions {
        load: LoadOptions {
            tree: TreeConfig { seed: random()?, extended_types: true },
            now: clock::now(),
            threads: 0,
        },
        log: Options {
            identity: random()?,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            committed: Zxid::ZERO,
        },
        check_digest: true,
        snapshot_alone: false,
    })
}
