package export

import (
	"cmp"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// cloudEvent is an event of CloudEvents 1.0 (CNCF, CloudEvents specification and its JSON event
// format): the attributes that it requires, and those of the optional ones that a decision has.
type cloudEvent struct {
	SpecVersion     string         `json:"specversion"`
	ID              string         `json:"id"`     // of the decision: with Source it names one event
	Source          string         `json:"source"` // SPIFFE ID of the node that decided: a URI
	Type            string         `json:"type"`
	Subject         string         `json:"subject,omitempty"` // SPIFFE ID of the caller
	Time            time.Time      `json:"time"`              // when it was recorded
	DataContentType string         `json:"datacontenttype"`
	Data            decision.Event `json:"data"`
}

// cloudEventType begins the type of every event; what was decided follows.
const cloudEventType = "io.bailiwick.decision."

func cloudEventOf(e decision.Event) cloudEvent {
	return cloudEvent{
		SpecVersion: "1.0", ID: e.DecisionID, Source: cmp.Or(e.Labels["id"], "bailiwick"), Type: cloudEventType + string(e.Kind()),
		Subject: e.RequestedBy, Time: e.Timestamp, DataContentType: "application/json", Data: e,
	}
}
