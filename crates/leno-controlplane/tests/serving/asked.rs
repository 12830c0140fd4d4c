//! Questions of people that go to agents: who is asked, what is passed on, what an agent cannot do with its answers.

use leno_wire::agent::{Answer, Ask, Hello, agent_message, ask, control_message};
use serde_json::{Value, json};

use super::{
    ControlPlane, Membership, cart,
    client::{self, Agent},
    test,
};

const REFUSALS: &str = "/meshes/default/leno/v1/refusals";

/// An agent that can be asked.
fn knowing() -> Hello {
    Hello {
        features: vec![leno_wire::ASK.into()],
        ..Hello::default()
    }
}

async fn asked(agent: &mut Agent) -> Ask {
    loop {
        if let control_message::Message::Ask(ask) = agent.hear().await {
            return ask;
        }
    }
}

async fn answer(agent: &Agent, question: u64, last: bool, documents: Vec<Vec<u8>>) {
    let answer = Answer {
        question,
        last,
        documents,
        more: 0,
    };
    agent.say(agent_message::Message::Answer(answer)).await;
}

#[test]
fn what_agents_say_of_a_refusal_is_passed_on_with_their_host_and_nothing_else_is() {
    test("asked", async |directory| {
        let control = ControlPlane::start_with(directory.path(), |config| {
            config.metrics = Some("127.0.0.1:0".parse().unwrap());
        })
        .await;
        let (a, b, old) = (
            Membership::join(&control, "a", cart()).await,
            Membership::join(&control, "b", cart()).await,
            Membership::join(&control, "old", cart()).await,
        );
        let mut a_agent = a.connect_with(&control, knowing()).await;
        let mut b_agent = b.connect_with(&control, knowing()).await;
        // Of an earlier version: nothing is asked of it.
        let _old = old.connect(&control).await;
        let side = json!({"id": "00c0ffee00c0ffee", "at_ms": 1_000, "reason": "UF", "direction": "outbound", "host": "forged",
            "endpoints": [7, {"uid": "nobody"}]});
        let agents = client::start(async move {
            let (to_a, to_b) = (asked(&mut a_agent).await, asked(&mut b_agent).await);
            assert_eq!(to_a, to_b, "everybody is asked the same");
            let Some(ask::What::Explain(explain)) = &to_a.what else {
                panic!("{to_a:?}");
            };
            assert_eq!(explain.id, "00c0");
            // Nobody asked this.
            answer(&a_agent, to_a.question + 7, true, vec![b"{}".to_vec()]).await;
            let long = json!({"id": "x".repeat(70_000)}).to_string().into_bytes();
            let documents = vec![
                b"no json".to_vec(),
                b"[1]".to_vec(),
                long,
                side.to_string().into_bytes(),
            ];
            answer(&a_agent, to_a.question, true, documents).await;
            answer(&b_agent, to_b.question, true, Vec::new()).await;
            // Its last word was said.
            answer(
                &b_agent,
                to_b.question,
                true,
                vec![b"{\"id\":\"late\"}".to_vec()],
            )
            .await;
            (a_agent, b_agent)
        });
        let (code, said) = control
            .admin("GET", &format!("{REFUSALS}/00C0"), None)
            .await;
        assert_eq!(code, 200, "{said:#}");
        let refusals = said["refusals"].as_array().unwrap();
        assert_eq!(refusals.len(), 1, "{said:#}");
        assert_eq!(refusals[0]["id"], "00c0ffee00c0ffee");
        let sides = refusals[0]["sides"].as_array().unwrap();
        assert_eq!(sides.len(), 1);
        assert_eq!(sides[0]["host"], "a", "a host speaks for itself alone");
        assert_eq!(sides[0]["endpoints"][1]["registered"], Value::Null);
        assert_eq!(said["asked"], 2);
        assert_eq!(said["silent"], json!(["old"]));
        let _agents = agents.await.unwrap();
        let metrics = control.scrape().await;
        assert!(
            metrics.contains("leno_answers_dropped_total{mesh=\"default\"} 3\n"),
            "{metrics}"
        );
        control.stop().await;
    });
}

#[test]
fn an_agent_that_goes_or_says_nothing_keeps_nobody_waiting_for_long() {
    test("silent", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let gone = Membership::join(&control, "gone", cart()).await;
        let mut agent = gone.connect_with(&control, knowing()).await;
        let going = client::start(async move {
            asked(&mut agent).await;
            drop(agent);
        });
        let (code, said) = control.admin("GET", REFUSALS, None).await;
        assert_eq!((code, &said["refusals"]), (200, &json!([])), "{said:#}");
        going.await.unwrap();
        let (code, said) = control
            .admin("GET", &format!("{REFUSALS}/00c0ffee"), None)
            .await;
        assert_eq!(code, 404, "{said:#}");
        let (code, said) = control.admin("GET", &format!("{REFUSALS}/zz"), None).await;
        assert_eq!(code, 422, "{said:#}");
        for path in ["logs?of=nobody", "logs?of=%00", "logs?of=x&since=soon"] {
            let path = format!("/meshes/default/leno/v1/{path}");
            let (code, said) = control.admin("GET", &path, None).await;
            assert!(code == 404 || code == 422, "{path}: {said:#}");
        }
        control.stop().await;
    });
}
