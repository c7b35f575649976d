//! Which role runs on which core: computed from the machine, printed at start.
//!
//! Roles: *pipeline* (the tree's writer, sessions, and the log's appends), *clients* (1..n, each
//! with its own listener queue and connections), *background* (snapshots, filling segments,
//! purging). On few cores roles share an executor, which costs no wake between them; from four
//! cores on the pipeline has a core of its own and every further core but one serves clients.

use std::fmt;

use crate::config::Cores;

/// A role that an executor carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Prepares, logs and publishes transactions; owns the sessions.
    Pipeline,
    /// Serves the connections of this number.
    Clients(usize),
}

/// One executor: its roles and the CPU that it is bound to, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    pub roles: Vec<Role>,
    pub cpu: Option<usize>,
}

/// All executors that serve, in order; the background executor stands beside them, unbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub executors: Vec<Executor>,
    /// How many executors carry clients.
    pub client_count: usize,
}

/// The most client cores: connection names hold the core's number in a byte.
pub const CLIENT_CORES_MAX: usize = 128;

/// The plan for a machine with the CPUs `online`.
///
/// Automatic: up to three CPUs, one executor carries everything. A second one would cost each
/// write two wakes (some 5 µs each) and gain little, since the kernel's side of the sockets and
/// the disk already runs elsewhere. From four CPUs on: the pipeline alone, one CPU left to the
/// background and the kernel, clients on the rest.
pub fn plan(online: &[usize], cores: Cores) -> Plan {
    let wanted = cores.clients.map_or(online.len().saturating_sub(2), |count| count as usize);
    let client_count = wanted.clamp(1, CLIENT_CORES_MAX);
    let shared = client_count == 1 && online.len() < 4;
    let mut roles: Vec<Vec<Role>> = (0..client_count).map(|n| vec![Role::Clients(n)]).collect();
    if shared {
        roles[0].insert(0, Role::Pipeline);
    } else {
        roles.insert(0, vec![Role::Pipeline]);
    }
    // More executors than CPUs: binding two hot loops to one CPU would only hurt.
    let pin = cores.pin.unwrap_or(online.len() > 2) && roles.len() <= online.len();
    let executors = roles
        .into_iter()
        .enumerate()
        .map(|(index, roles)| Executor { roles, cpu: pin.then(|| online[index]) })
        .collect();
    Plan { executors, client_count }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, executor) in self.executors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}executor {index}")?;
            match executor.cpu {
                Some(cpu) => write!(f, " on CPU {cpu}:")?,
                None => write!(f, " on any CPU:")?,
            }
            for role in &executor.roles {
                match role {
                    Role::Pipeline => write!(f, " pipeline, log")?,
                    Role::Clients(number) => write!(f, " clients {number}")?,
                }
            }
        }
        write!(f, "; background on any CPU")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cpus_share_one_executor() {
        let plan = plan(&[0, 1], Cores { clients: None, pin: Some(true) });
        assert_eq!(plan.executors.len(), 1);
        assert_eq!(plan.executors[0].roles, [Role::Pipeline, Role::Clients(0)]);
        assert_eq!(plan.executors[0].cpu, Some(0));
    }

    #[test]
    fn many_cpus_serve_clients_on_all_but_two() {
        let online: Vec<usize> = (0..32).collect();
        let plan = plan(&online, Cores { clients: None, pin: None });
        assert_eq!(plan.client_count, 30);
        assert_eq!(plan.executors.len(), 31);
        assert_eq!(plan.executors[0].roles, [Role::Pipeline]);
    }

    #[test]
    fn more_executors_than_cpus_are_not_pinned() {
        let plan = plan(&[0, 1], Cores { clients: Some(4), pin: Some(true) });
        assert_eq!(plan.executors.len(), 5);
        assert!(plan.executors.iter().all(|executor| executor.cpu.is_none()));
    }
}
