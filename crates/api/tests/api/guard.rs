//! Who is let in, and which web pages may call.

use axum::body::Body;
use vman_api::Auth;

use crate::harness::{Answer, Api, TOKEN};

const ORIGIN: &str = "https://console.example";

async fn with_headers(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    api.send_bare("GET", path, headers, Body::empty()).await
}

#[tokio::test]
async fn only_the_right_token_is_let_in() {
    let api = Api::new();
    for (authorization, let_in) in [
        (format!("Bearer {TOKEN}"), true),
        (format!("bearer {TOKEN}"), true),
        (format!("BEARER   {TOKEN}"), true),
        (format!("Bearer {TOKEN}x"), false),
        (format!("Bearer {}", &TOKEN[1..]), false),
        (format!("Bearer{TOKEN}"), false),
        (format!("Basic {TOKEN}"), false),
        (TOKEN.to_owned(), false),
        ("Bearer".to_owned(), false),
        ("Bearer ".to_owned(), false),
        (String::new(), false),
    ] {
        let answer = with_headers(&api, "/vms", &[("authorization", &authorization)]).await;
        if let_in {
            answer.expect(200);
        } else {
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{authorization}");
            assert!(!answer.text.contains(TOKEN));
            answer.expect_problem(401, "unauthorized");
        }
    }
    with_headers(&api, "/vms", &[]).await.expect_problem(401, "unauthorized");
    let twice = format!("Bearer {TOKEN}");
    let twice = [("authorization", twice.as_str()), ("authorization", twice.as_str())];
    with_headers(&api, "/vms", &twice).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn without_a_token_only_health_answers_and_nothing_else_is_told() {
    let api = Api::new();
    with_headers(&api, "/health", &[]).await.expect(200);
    for path in ["/", "/nosuch", "/ready", "/openapi.json", "/vms/x", "/health/", "/HEALTH"] {
        with_headers(&api, path, &[]).await.expect_problem(401, "unauthorized");
    }
    for method in ["POST", "DELETE", "PUT"] {
        let answer = api.send_bare(method, "/vms", &[], Body::from("{")).await;
        answer.expect_problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn an_empty_token_lets_nobody_in() {
    let api = Api::with(Auth::Token(String::new()), &[]);
    for authorization in ["Bearer ", "Bearer", ""] {
        let answer = with_headers(&api, "/vms", &[("authorization", authorization)]).await;
        answer.expect_problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn without_tokens_the_host_must_be_an_address_or_localhost() {
    let api = Api::with(Auth::None, &[]);
    for (host, let_in) in [
        ("127.0.0.1:8000", true),
        ("127.0.0.1", true),
        ("[::1]:8000", true),
        ("192.168.1.7:8000", true),
        ("localhost:8000", true),
        ("LocalHost", true),
        ("evil.example", false),
        ("evil.example:8000", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("localhost@evil.example", false),
        ("", false),
        ("not a host", false),
    ] {
        let answer = with_headers(&api, "/vms", &[("host", host)]).await;
        if let_in {
            answer.expect(200);
        } else {
            answer.expect_problem(403, "host-refused");
        }
    }
    with_headers(&api, "/vms", &[]).await.expect(200);
}

#[tokio::test]
async fn without_tokens_a_page_of_a_stranger_is_refused() {
    let api = Api::with(Auth::None, &[ORIGIN]);
    let host = ("host", "127.0.0.1:8000");
    with_headers(&api, "/vms", &[host, ("origin", ORIGIN)]).await.expect(200);
    for origin in ["https://evil.example", "null", "http://127.0.0.1:8000"] {
        let answer = with_headers(&api, "/vms", &[host, ("origin", origin)]).await;
        answer.expect_problem(403, "origin-refused");
    }
}

#[tokio::test]
async fn a_preflight_works_without_a_token_and_names_what_may_be_sent() {
    let api = Api::with(Auth::Token(TOKEN.to_owned()), &[ORIGIN, "http://localhost"]);
    let ask = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "authorization,prefer"),
        ];
        api.send_bare("OPTIONS", "/vms/x", &headers, Body::empty()).await.expect(200)
    };
    for origin in [ORIGIN, "http://localhost:5173", "http://localhost"] {
        let answer = ask(origin).await;
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert!(answer.header("access-control-allow-methods").contains("DELETE"));
        for needed in ["authorization", "content-type", "prefer"] {
            assert!(answer.header("access-control-allow-headers").contains(needed));
        }
    }
    for origin in ["https://evil.example", "http://127.0.0.1:5173", "null"] {
        assert_eq!(ask(origin).await.header("access-control-allow-origin"), "");
    }
}

#[tokio::test]
async fn a_page_can_read_the_answers_it_gets_and_their_headers() {
    let api = Api::with(Auth::Token(TOKEN.to_owned()), &[ORIGIN]);
    let answer = with_headers(&api, "/vms", &[("origin", ORIGIN)]).await.expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), ORIGIN);
    for needed in ["location", "link", "preference-applied"] {
        assert!(answer.header("access-control-expose-headers").contains(needed));
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_a_given_one_comes_back() {
    let api = Api::new();
    let given = [("x-request-id", "trace-7")];
    assert_eq!(with_headers(&api, "/health", &given).await.header("x-request-id"), "trace-7");
    assert_eq!(with_headers(&api, "/vms", &given).await.header("x-request-id"), "trace-7");
    let (one, two) = (api.get("/nosuch").await, api.get("/nosuch").await);
    assert_eq!(one.header("x-request-id").len(), 36);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}
