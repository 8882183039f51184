//! What jobs make of a tree, and what they cost.

use super::{CHUNK_LEN, DEAD, INLINE, Kvset, Leaf, Place, Tree, id_of, merged};
use crate::key::{KvsetId, NodeId};
use crate::pick::{Action, Limits, NewLeaves, NodeShape, Plan, pick};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A job under way: what it will change, and what it costs.
pub(crate) struct Job {
    /// Those that its inputs are in.
    nodes: Vec<NodeId>,
    remove: Vec<KvsetId>,
    add: Vec<(NodeId, Kvset)>,
    leaves_remove: Vec<NodeId>,
    leaves_add: Vec<(NodeId, u32)>,
    reshapes: bool,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) keys: u64,
    /// Of the kvsets that it writes.
    pub(crate) written_keys: u64,
}

impl Tree {
    /// Begins what the picker wants.
    pub(crate) fn begin(&mut self, limits: Limits) -> Option<Job> {
        let plan = pick(&self.shape(limits), limits)?;
        self.busy.extend(&plan.inputs);
        self.reshaping |= plan.action.reshapes();
        Some(self.job(&plan))
    }

    fn job(&mut self, plan: &Plan) -> Job {
        let with = if let Action::Join { with } = plan.action { Some(with) } else { None };
        let of = |leaf: &&Leaf| leaf.id == plan.node || with == Some(leaf.id);
        let in_leaves = self.leaves.iter().filter(of).flat_map(|leaf| &leaf.kvsets);
        let all = self.root.iter().filter(|_| plan.node == NodeId::ROOT).chain(in_leaves);
        let inputs: Vec<Kvset> =
            all.filter(|kvset| plan.inputs.contains(&kvset.id)).cloned().collect();
        let mut job = Job {
            nodes: [plan.node].into_iter().chain(with).collect(),
            remove: plan.inputs.clone(),
            add: Vec::new(),
            leaves_remove: Vec::new(),
            leaves_add: Vec::new(),
            reshapes: plan.action.reshapes(),
            read_bytes: inputs.iter().map(|kvset| self.index_of(kvset)).sum(),
            written_bytes: 0,
            written_keys: 0,
            keys: inputs.iter().map(|kvset| kvset.entries.len() as u64).sum::<u64>() * self.scale,
        };
        if let Action::Move { new_leaf } = plan.action {
            (job.read_bytes, job.keys) = (0, 0);
            self.relocate(&mut job, &inputs[0], new_leaf);
            return job;
        }
        let age = (
            inputs.iter().map(|kvset| kvset.age.0).min().unwrap_or(0),
            inputs.iter().map(|kvset| kvset.age.1).max().unwrap_or(0),
        );
        let mut entries = merged(&inputs);
        entries.retain(|(key, place)| *place != DEAD || self.hides_something(*key, age.0));
        let moved = |place: Place| {
            plan.action == Action::KvCompact || plan.vblocks.binary_search(&id_of(place)).is_ok()
        };
        let is_moved = |entry: &(u32, Place)| entry.1 < INLINE && moved(entry.1);
        let (mut gone, mut kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_moved);
        let value_bytes = gone.len() as u64 * self.scale * self.value_bytes;
        self.write_values(&mut gone);
        kept.extend(gone);
        kept.sort_unstable();
        job.read_bytes += value_bytes;
        job.written_bytes += value_bytes;
        for (node, part) in self.divide(plan, kept, &mut job) {
            if !part.is_empty() {
                let kvset = self.kvset(part, age);
                job.written_bytes += self.index_of(&kvset);
                job.written_keys += self.keys_of(kvset.entries.len() as u64);
                job.add.push((node, kvset));
            }
        }
        job
    }

    fn relocate(&mut self, job: &mut Job, kvset: &Kvset, new_leaf: bool) {
        let first = kvset.entries[0].0;
        let node = if new_leaf {
            let node = NodeId::new(self.new_id());
            job.leaves_add.push((node, if self.leaves.is_empty() { 0 } else { first }));
            node
        } else {
            self.leaf_of(first).expect("a kvset that lands in a leaf has one").id
        };
        job.add.push((node, kvset.clone()));
    }

    /// Where entries go.
    fn divide(
        &mut self,
        plan: &Plan,
        entries: Vec<(u32, Place)>,
        job: &mut Job,
    ) -> Vec<(NodeId, Vec<(u32, Place)>)> {
        if let Some(NewLeaves { count: leaves, .. }) = plan.new_leaves {
            let first = match plan.action {
                Action::Join { with } => {
                    job.leaves_remove = vec![plan.node, with];
                    self.first_of(plan.node)
                }
                Action::Split { .. } => {
                    job.leaves_remove = vec![plan.node];
                    self.first_of(plan.node)
                }
                _ => 0,
            };
            let each = entries.len().div_ceil(usize::try_from(leaves).unwrap_or(1)).max(1);
            let parts: Vec<Vec<_>> = entries.chunks(each).map(<[_]>::to_vec).collect();
            let parts = if parts.is_empty() { vec![Vec::new()] } else { parts };
            let nodes: Vec<NodeId> = parts.iter().map(|_| NodeId::new(self.new_id())).collect();
            for (n, (node, part)) in nodes.iter().zip(&parts).enumerate() {
                job.leaves_add.push((*node, if n == 0 { first } else { part[0].0 }));
            }
            return nodes.into_iter().zip(parts).collect();
        }
        if plan.action != Action::Spill {
            return vec![(plan.node, entries)];
        }
        let mut parts: Vec<(NodeId, Vec<(u32, Place)>)> =
            self.leaves.iter().map(|leaf| (leaf.id, Vec::new())).collect();
        for entry in entries {
            let at = self.leaves.partition_point(|leaf| leaf.first <= entry.0) - 1;
            parts[at].1.push(entry);
        }
        parts
    }

    fn first_of(&self, node: NodeId) -> u32 {
        self.leaves.iter().find(|leaf| leaf.id == node).expect("a busy leaf stays").first
    }

    /// Ends a job.
    pub(crate) fn end(&mut self, job: Job) {
        let is_gone = |kvset: &mut Kvset| job.remove.contains(&kvset.id);
        let mut gone = Vec::new();
        let mut touched: BTreeSet<NodeId> = job.add.iter().map(|(node, _)| *node).collect();
        touched.extend(&job.nodes);
        if job.nodes.contains(&NodeId::ROOT) {
            gone.extend(self.root.extract_if(.., is_gone));
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| job.nodes.contains(&leaf.id)) {
            gone.extend(leaf.kvsets.extract_if(.., |kvset| job.remove.contains(&kvset.id)));
        }
        // Deletes go with what they deleted.
        if job.nodes.contains(&NodeId::ROOT) || gone.iter().any(|kvset| kvset.tombstones > 0) {
            self.root_told = None;
        }
        let moved: Vec<KvsetId> = job.add.iter().map(|(_, kvset)| kvset.id).collect();
        for kvset in gone.iter().filter(|kvset| !moved.contains(&kvset.id)) {
            self.let_go(kvset);
        }
        if !job.leaves_remove.is_empty() || !job.leaves_add.is_empty() {
            self.chunks.clear();
        }
        self.leaves.retain(|leaf| !job.leaves_remove.contains(&leaf.id));
        for (id, first) in job.leaves_add {
            let at = self.leaves.partition_point(|leaf| leaf.first < first);
            let shape = Arc::new(NodeShape::new(id, Vec::new(), 0));
            self.leaves.insert(at, Leaf { id, first, kvsets: Vec::new(), shape });
        }
        let mut add: HashMap<NodeId, Kvset> = job.add.into_iter().collect();
        for at in 0..self.leaves.len() {
            let id = self.leaves[at].id;
            if !touched.contains(&id) {
                continue;
            }
            let mut fresh = 0;
            if let Some(kvset) = add.remove(&id) {
                let is_new = !job.remove.contains(&kvset.id);
                self.index_bytes += if is_new { self.index_of(&kvset) } else { 0 };
                let is_fresh = |entry: &&(u32, Place)| !self.is_in_leaves(entry.0);
                fresh = kvset.entries.iter().filter(is_fresh).count() as u64;
                self.leaves[at].kvsets.push(kvset);
            }
            let leaf = &mut self.leaves[at];
            leaf.kvsets.sort_by_key(|kvset| std::cmp::Reverse(kvset.age.1));
            self.leaf_len_max = self.leaf_len_max.max(leaf.kvsets.len());
            // Of a leaf from which nothing was taken it is known.
            let leaf = &self.leaves[at];
            let distinct = if job.nodes.contains(&id) {
                merged(&leaf.kvsets).len() as u64
            } else {
                leaf.shape.distinct_keys / self.scale + fresh
            };
            self.leaves[at].shape = Arc::new(self.node(id, &leaf.kvsets, distinct));
            if let Some(told) = self.chunks.get_mut(at / CHUNK_LEN) {
                *told = None;
            }
        }
        assert!(add.is_empty(), "a job's leaf stays");
        for id in &job.remove {
            self.busy.remove(id);
        }
        self.reshaping &= !job.reshapes;
    }
}
