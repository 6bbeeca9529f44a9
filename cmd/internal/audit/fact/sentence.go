package fact

import (
	"fmt"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// phrases of kinds: {field} is put in, {field:time} as a time, {field:if} not at all; a part in [] goes when one
// of its fields is empty.
var phrases = map[string]string{
	"genesis":                      "the trail of {node} begins, epoch {epoch}, key kept in {protection}",
	"gap":                          "{count} events are missing: {why}",
	trail.NodeStart.Name():         "the sidecar started[, version {version}][, policy {policy}]",
	trail.NodeStop.Name():          "the sidecar stopped in good order",
	trail.IdentitySVID.Name():      "received an SVID for {id}, serial {serial}, until {not_after:time}, epoch {epoch}",
	trail.IdentityEpoch.Name():     "epoch {epoch}[: {why}]",
	trail.IdentityAttest.Name():    "machine of {node}: good {ok}[, rule {rule}: {why}][, by evidence in record {record}][, machine {ek}]",
	trail.IdentityMachine.Name():   "{why}: new keys",
	trail.IdentityTrust.Name():     "trust record {version} of {region} ({trust_domain}) came into force, from {from}",
	trail.IssuerIssue.Name():       "issued to {id}[, epoch {epoch}][, serial {serial}], until {not_after:time}",
	trail.AuthorityConflict.Name(): "two objects of {level} {kind} {name}, version {version}: {winner} prevails over {loser}",
	trail.IssuerAttest.Name():      "judged evidence [of {agent} ]by {type}, from {from}: good {ok}[: {why}]",
	trail.IssuerRefuse.Name():      "refused {to} {what}[ for {id}]: {why}",
	trail.AuthorityPublish.Name():  "published [{what}][{level} {kind}][ {name}][, version {version}][, digest {digest}][ for {for}][, asked by {by}]",
	trail.AuthorityEpoch.Name():    "[gave {node} epoch {epoch}, spare {spare}, class {class}][, asked by {by}][everything given out before is void: epochs begin above {floor}]",
	trail.PolicyActivate.Name():    "[policy generation {revision} is enforced][, instead of {reverted}: {why}][{level} policy of {scope}, version {version}, is held ({mode}), content {content}, by {author}]",
	trail.PolicyRollout.Name():     "{level} policy of {scope}, version {version}: {phase}[ in ring {ring}][: {reason}]",
	trail.DecisionDeny.Name():      "denied {kind}[ of {source}][ to {target}]: rule {rule}[ of the {level} policy], generation {revision}, decision {id}",
	trail.StateOut.Name():          "signed record {seq} of epoch {epoch}, {ops} operations: {record}",
	trail.StateIn.Name():           "applied {records} records of {origin}, up to {last} of epoch {epoch}: {record}",
	trail.StateRefuse.Name():       "refused record {seq} of {origin} from {relay}: {why}[, key {key}][: {detail}]",
	trail.PeerFinding.Name():       "verified evidence against {accused}: {class}, epoch {epoch}, proof {digest}[, carried by {carried_by}]",
	trail.PeerAccuse.Name():        "[accused {accused} of {class} until {until:time}: {what}][{withdrawn:if}took back that it accused {accused} of {class}]",
	trail.PeerStanding.Name():      "{id} went from {from} to {to}[: {reason}][; {cut}]",
	trail.PeerRelease.Name():       "[{release} was released, from epoch {epoch}: {reason}][, {repeat}][, approved by {approved_by}][{revocation} was revoked: {reason}][the state of {rollback} went back to {to}: {reason}][of the state of {segments}, {parts} counts: {reason}]",
	trail.PeerAppeal.Name():        "{appeal} appeals: {note}[, its machine {machine} quoted afresh before {by}][, unattested, as {unattested}, before {by}]",
	trail.AdminAction.Name():       "{action}[ by uid {uid}][ ({caller})][, rule {rule}][, decision {decision}]",
	trail.PayloadErase.Name():      "erased what decisions were about[, of {subject}][, of data class {class}][, of kind {kind}][, before {before}]: {keys} keys, by {by}: {reason}; erasure {erasure}",
	trail.CustodyConflict.Name():   "the trail of {owner}, epoch {epoch}, does not continue the copy held here: {why}",
	trail.Segment.Name():           "segment {segment}: decisions {first} to {last}, {count} of them, digest {digest}",
}

// sentence fills in the phrase of a kind; empty where it has none that says all.
func sentence(kind string, body map[string]any) string {
	if kind == trail.DecisionAllow.Name() {
		return allowed(body)
	}
	p, ok := phrases[kind]
	if !ok || body == nil {
		return ""
	}
	out := ""
	for p != "" {
		open, rest, optional := strings.Cut(p, "[")
		s, whole := fill(open, body)
		if !whole {
			return ""
		}
		out += s
		if !optional {
			break
		}
		part, after, _ := strings.Cut(rest, "]")
		if s, whole := fill(part, body); whole {
			out += s
		}
		p = after
	}
	return strings.TrimPrefix(out, ", ")
}

func fill(p string, body map[string]any) (string, bool) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(p, "{")
		out.WriteString(before)
		if !found {
			return out.String(), true
		}
		name, after, _ := strings.Cut(rest, "}")
		name, form, _ := strings.Cut(name, ":")
		v := Short(text(body, name))
		if v == "" {
			return "", false
		}
		switch form {
		case "time":
			v = unix(body[name])
		case "if":
			v = ""
		}
		out.WriteString(v)
		p = after
	}
}

func unix(v any) string {
	switch v := v.(type) {
	case uint64:
		return time.Unix(int64(v), 0).UTC().Format(time.RFC3339)
	case int64:
		return time.Unix(v, 0).UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

func allowed(body map[string]any) string {
	counts, _ := body["counts"].([]any)
	var out []string
	for _, c := range counts {
		if c, ok := c.(map[string]any); ok {
			out = append(out, fmt.Sprintf("%s %s by rule %s", text(c, "n"), text(c, "kind"), text(c, "rule")))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "allowed " + strings.Join(out, ", ")
}
