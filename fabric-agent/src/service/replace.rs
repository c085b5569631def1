//! Making what an owner has equal to a list of objects, such as a directory of manifests.

use std::collections::BTreeSet;

use super::{
    draft::{Announced, Draft, Key},
    write::{answer, duplicate, in_order, key, rank},
    *,
};

/// What [`Service::replace_owned`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// One per object that stands.
    pub applied: Vec<Applied>,
    /// Kind and name of objects that were removed.
    pub removed: Vec<(String, String)>,
    /// One sentence per object that was refused; it stays as it was before.
    pub problems: Vec<String>,
}

impl Service {
    /// Makes an owner's objects equal to `objects`. An object that is refused keeps its former state and is reported;
    /// the others stand. What the owner has beyond them is removed if `prune` is set. Endpoints of this node that were
    /// attached here are taken as the announcements that they are.
    ///
    /// # Errors
    /// The store can't be written.
    pub async fn replace_owned(
        &self,
        owner: &Owner,
        objects: Vec<Object>,
        prune: bool,
    ) -> Result<Replaced, ServiceError> {
        let (replaced, _) = self.transact(|draft| replace(draft, owner, &objects, prune)).await?;
        Ok(replaced)
    }
}

/// All at once if all is well; else without those that are wrong, so that one harms no other.
fn replace(
    draft: &mut Draft,
    owner: &Owner,
    objects: &[Object],
    prune: bool,
) -> Result<Replaced, ServiceError> {
    let wanted: BTreeSet<Key> = objects.iter().map(key).collect();
    let (objects, problems) = announced(draft, owner, objects);
    let mut surplus: Vec<Key> = if prune { draft.owned(owner) } else { Vec::new() };
    surplus.retain(|k| !wanted.contains(k));
    // Endpoints go before nodes, nodes before networks.
    surplus.sort_by_key(|k| std::cmp::Reverse(rank(&k.0)));
    let saved = draft.clone();
    if duplicate(&objects).is_none()
        && let Ok(applied) = replace_at_once(draft, owner, &objects, &surplus)
    {
        return Ok(Replaced { applied, removed: surplus, problems });
    }
    *draft = saved;
    let mut replaced = replace_in_parts(draft, owner, &objects, surplus);
    replaced.problems.splice(0..0, problems);
    Ok(replaced)
}

fn replace_at_once(
    draft: &mut Draft,
    owner: &Owner,
    objects: &[Object],
    surplus: &[Key],
) -> Result<Vec<Applied>, ServiceError> {
    let (networks, others): (Vec<&Key>, Vec<&Key>) = surplus.iter().partition(|k| rank(&k.0) == 0);
    for key in others {
        draft.delete(owner, key)?;
    }
    let mut applied = Vec::new();
    for (_, object) in in_order(objects) {
        let outcome = draft.put(owner, object.clone())?;
        applied.push(answer(object, outcome));
    }
    for key in networks {
        draft.delete(owner, key)?;
    }
    draft.validate()?;
    Ok(applied)
}

/// Leaves out endpoints of this node that were attached by another front door: one list of all hosts' objects can be
/// given to every host. What does not fit what is attached is a problem.
fn announced(draft: &Draft, owner: &Owner, objects: &[Object]) -> (Vec<Object>, Vec<String>) {
    let mut problems = Vec::new();
    let mut rest = Vec::new();
    for object in objects {
        match draft.announced(owner, object) {
            Announced::No => rest.push(object.clone()),
            Announced::AsAttached => {}
            Announced::Wrong(text) => {
                let (kind, name) = key(object);
                problems.push(draft::named(&kind, &name, &text));
            }
        }
    }
    (rest, problems)
}

fn replace_in_parts(draft: &mut Draft, owner: &Owner, objects: &[Object], surplus: Vec<Key>) -> Replaced {
    let mut replaced = Replaced::default();
    // What can't go now may go once others are changed.
    let mut left = Vec::new();
    let delete = |d: &mut Draft, k: &Key| d.delete(owner, k);
    in_parts(draft, &surplus, &delete, &mut |k, done| match done {
        Ok(()) => replaced.removed.push(k.clone()),
        Err(_) => left.push(k.clone()),
    });
    let mut seen = BTreeSet::new();
    let (first, twice): (Vec<_>, Vec<_>) =
        in_order(objects).into_iter().map(|(_, object)| object).partition(|object| seen.insert(key(object)));
    for (kind, name) in twice.into_iter().map(key) {
        let kind = kind.to_lowercase();
        replaced.problems.push(format!("{kind} {name}: it is declared twice; the first one counts"));
    }
    let put = |d: &mut Draft, object: &&Object| d.put(owner, (*object).clone());
    // A network may let in one that comes behind it.
    let mut again = Vec::new();
    in_parts(draft, &first, &put, &mut |object, done| match done {
        Ok(outcome) => replaced.applied.push(answer(object, outcome)),
        Err(_) => again.push(*object),
    });
    in_parts(draft, &again, &put, &mut |object, done| match done {
        Ok(outcome) => replaced.applied.push(answer(object, outcome)),
        Err(e) => {
            let (kind, name) = key(object);
            replaced.problems.push(draft::named(&kind, &name, &e.message));
        }
    });
    in_parts(draft, &left, &delete, &mut |k, done| match done {
        Ok(()) => replaced.removed.push(k.clone()),
        Err(e) => replaced.problems.push(draft::named(&k.0, &k.1, &e.message)),
    });
    replaced
}

/// Does `change` for every item that it can be done for, and tells the outcome of each in order. Items that can all be
/// done are checked together; a list with a wrong one is halved until that one is alone, so that few wrong ones among
/// many cost few checks.
fn in_parts<I, T>(
    draft: &mut Draft,
    items: &[I],
    change: &impl Fn(&mut Draft, &I) -> Result<T, ServiceError>,
    tell: &mut impl FnMut(&I, Result<T, ServiceError>),
) {
    if items.is_empty() {
        return;
    }
    let done = draft.attempt(|d| items.iter().map(|item| change(d, item)).collect::<Result<Vec<T>, _>>());
    match (done, items) {
        (Ok(values), _) => items.iter().zip(values).for_each(|(item, value)| tell(item, Ok(value))),
        (Err(e), [item]) => tell(item, Err(e)),
        (Err(_), _) => {
            let (front, back) = items.split_at(items.len() / 2);
            in_parts(draft, front, change, tell);
            in_parts(draft, back, change, tell);
        }
    }
}
