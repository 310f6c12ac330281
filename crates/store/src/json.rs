//! Lists inside one column, as JSON text: facts, candidates, chosen ids. The words of the domain
//! have no serialisation of their own, so it is spelled out here.

use serde_json::{Value as Json, json};
use vman_core::evidence::{Fact, Value};
use vman_core::repair::{Candidate, CandidateKind};

pub(crate) fn write_facts(facts: &[Fact]) -> String {
    let value = |value: &Value| match value {
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Texts(value) => json!(value),
    };
    let facts = facts.iter().map(|fact| json!({ "key": fact.key, "value": value(&fact.value) }));
    Json::from_iter(facts).to_string()
}

pub(crate) fn read_facts(text: &str) -> Option<Vec<Fact>> {
    read_list(text, |fact| {
        let key = fact.get("key")?.as_str()?.to_owned();
        Some(Fact { key, value: read_value(fact.get("value")?)? })
    })
}

fn read_value(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(value) => Value::Integer(value.as_i64()?),
        Json::String(value) => Value::Text(value.clone()),
        Json::Array(values) => {
            let text = |value: &Json| value.as_str().map(str::to_owned);
            Value::Texts(values.iter().map(text).collect::<Option<_>>()?)
        }
        Json::Null | Json::Object(_) => return None,
    })
}

pub(crate) fn write_candidates(candidates: &[Candidate]) -> String {
    let candidates = candidates.iter().map(|one| json!({ "id": one.id, "kind": one.kind.word() }));
    Json::from_iter(candidates).to_string()
}

pub(crate) fn read_candidates(text: &str) -> Option<Vec<Candidate>> {
    read_list(text, |candidate| {
        let id = candidate.get("id")?.as_u64()?.try_into().ok()?;
        let kind = CandidateKind::from_word(candidate.get("kind")?.as_str()?)?;
        Some(Candidate { id, kind })
    })
}

pub(crate) fn write_ids(ids: &[u32]) -> String {
    json!(ids).to_string()
}

pub(crate) fn read_ids(text: &str) -> Option<Vec<u32>> {
    read_list(text, |id| id.as_u64()?.try_into().ok())
}

fn read_list<T>(text: &str, read: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
    let list: Json = serde_json::from_str(text).ok()?;
    list.as_array()?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fact_reads_back_as_it_was_written() {
        let facts = [
            Value::Boolean(true),
            Value::Integer(i64::MIN),
            Value::Integer(i64::MAX),
            Value::Text("it's \"quoted\"\n\u{1F600}\0".to_owned()),
            Value::Texts(vec![]),
            Value::Texts(vec![String::new(), "x".to_owned()]),
        ]
        .map(|value| Fact { key: "a.key".to_owned(), value });
        assert_eq!(read_facts(&write_facts(&facts)), Some(facts.into()));
    }

    #[test]
    fn every_kind_of_candidate_reads_back_as_it_was_written() {
        let candidates: Vec<Candidate> =
            (0..).zip(CandidateKind::ALL).map(|(id, kind)| Candidate { id, kind: *kind }).collect();
        assert_eq!(read_candidates(&write_candidates(&candidates)), Some(candidates));
        assert_eq!(read_ids(&write_ids(&[0, u32::MAX])), Some(vec![0, u32::MAX]));
    }

    #[test]
    fn text_of_another_shape_is_not_guessed_at() {
        for text in ["", "{}", "[1]", "[{\"key\":\"a\"}]", "[{\"key\":\"a\",\"value\":1.5}]"] {
            assert_eq!(read_facts(text), None, "{text}");
        }
        assert_eq!(read_candidates("[{\"id\":0,\"kind\":\"moon.land\"}]"), None);
        assert_eq!(read_ids("[-1]"), None);
    }
}
