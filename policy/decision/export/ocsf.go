package export

import (
	"cmp"
	"encoding/json"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// The parts of an OCSF event that are always the same (schema.ocsf.io, class api_activity).
const (
	ocsfVersion  = "1.6.0"
	ocsfCategory = 6 // Application Activity
	ocsfClass    = 6003
	ocsfOther    = 99 // activity_id: a decision is no create, read, update or delete
)

// ocsfEvent has the attributes of API Activity that a decision has something for. Those that the
// class requires are always there.
type ocsfEvent struct {
	ActivityID    int             `json:"activity_id"`
	ActivityName  string          `json:"activity_name"`
	CategoryUID   int             `json:"category_uid"`
	CategoryName  string          `json:"category_name"`
	ClassUID      int             `json:"class_uid"`
	ClassName     string          `json:"class_name"`
	TypeUID       int             `json:"type_uid"`
	Time          int64           `json:"time"` // Unix milliseconds
	SeverityID    int             `json:"severity_id"`
	Severity      string          `json:"severity"`
	StatusID      int             `json:"status_id"`
	Status        string          `json:"status"`
	StatusDetail  string          `json:"status_detail,omitempty"`
	Message       string          `json:"message"`
	ActionID      int             `json:"action_id"` // profile security_control, to which the next three belong too
	Action        string          `json:"action"`
	DispositionID int             `json:"disposition_id"`
	Disposition   string          `json:"disposition"`
	Policy        ocsfPolicy      `json:"policy"`
	Metadata      ocsfMetadata    `json:"metadata"`
	Actor         ocsfActor       `json:"actor"`
	API           ocsfAPI         `json:"api"`
	Src           ocsfEndpoint    `json:"src_endpoint"`
	Dst           *ocsfEndpoint   `json:"dst_endpoint,omitempty"`
	Resources     []ocsfResource  `json:"resources,omitempty"`
	Unmapped      json.RawMessage `json:"unmapped,omitempty"`
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	UID            string      `json:"uid"`
	CorrelationUID string      `json:"correlation_uid,omitempty"`
	Sequence       uint64      `json:"sequence,omitempty"`
	Product        ocsfProduct `json:"product"`
	Profiles       []string    `json:"profiles"`
}

type ocsfProduct struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitempty"`
}

type ocsfPolicy struct {
	UID     string     `json:"uid,omitempty"`
	Name    string     `json:"name,omitempty"`
	Group   *ocsfGroup `json:"group,omitempty"`
	Version string     `json:"version,omitempty"`
}

type ocsfGroup struct {
	Name string `json:"name"`
}

type ocsfActor struct {
	User           ocsfUser            `json:"user"`
	Authorizations []ocsfAuthorization `json:"authorizations"`
}

type ocsfUser struct {
	UID    string `json:"uid,omitempty"`
	Name   string `json:"name,omitempty"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type ocsfAuthorization struct {
	Decision string     `json:"decision"`
	Policy   ocsfPolicy `json:"policy"`
}

type ocsfAPI struct {
	Operation string       `json:"operation"`
	Service   *ocsfService `json:"service,omitempty"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfEndpoint struct {
	UID     string `json:"uid,omitempty"`
	Name    string `json:"name,omitempty"`
	Service string `json:"svc_name,omitempty"`
	Zone    string `json:"zone,omitempty"`
}

type ocsfResource struct {
	Name string `json:"name"`
}

const ocsfUnknown = "unknown"

func ocsfOf(e decision.Event) ocsfEvent {
	r, kind := e.Result, string(e.Kind())
	out := ocsfEvent{
		ActivityID: ocsfOther, ActivityName: kind, CategoryUID: ocsfCategory, CategoryName: "Application Activity",
		ClassUID: ocsfClass, ClassName: "API Activity", TypeUID: ocsfClass*100 + ocsfOther, Time: e.Timestamp.UnixMilli(),
		SeverityID: 1, Severity: "Informational", StatusID: 1, Status: "Success", ActionID: 1, Action: "Allowed", DispositionID: 1, Disposition: "Allowed",
		StatusDetail: r.Rule, Message: r.Reason, Policy: ocsfPolicy{UID: r.Rule, Name: cmp.Or(r.Title, r.Rule, ocsfUnknown), Version: r.Revision},
		Metadata: ocsfMetadata{Version: ocsfVersion, UID: e.DecisionID, CorrelationUID: e.TraceID, Sequence: e.RequestID,
			Product: ocsfProduct{Name: "bailiwick", Vendor: "bailiwick", Version: e.Labels["version"]}, Profiles: []string{"security_control"}},
		API:      ocsfAPI{Operation: kind},
		Src:      ocsfEndpoint{UID: cmp.Or(e.RequestedBy, ocsfUnknown)},
		Unmapped: unmapped(e),
	}
	if e.RequestedBy != "" {
		out.Actor.User = ocsfUser{UID: e.RequestedBy, TypeID: 3, Type: "System"}
	} else {
		out.Actor.User = ocsfUser{Name: ocsfUnknown, Type: "Unknown"}
	}
	if dst := (ocsfEndpoint{UID: e.Labels["id"], Service: r.Target}); dst != (ocsfEndpoint{}) {
		out.Dst = &dst
	}
	if r.Level != "" {
		out.Policy.Group = &ocsfGroup{r.Level}
	}
	word := "allowed"
	if !r.Allow {
		word = "denied"
		out.SeverityID, out.Severity = 2, "Low"
		out.StatusID, out.Status = 2, "Failure"
		out.ActionID, out.Action = 2, "Denied"
		out.DispositionID, out.Disposition = 2, "Blocked"
	}
	out.Actor.Authorizations = []ocsfAuthorization{{Decision: word, Policy: out.Policy}}
	if r.Target != "" {
		out.API.Service = &ocsfService{Name: r.Target}
		out.Resources = []ocsfResource{{Name: r.Target}}
	}
	return out
}

// unmapped is what OCSF has no attribute for.
func unmapped(e decision.Event) json.RawMessage {
	b, err := json.Marshal(struct {
		File    string                          `json:"rule_file,omitempty"`
		Line    int                             `json:"rule_line,omitempty"`
		Owner   string                          `json:"rule_owner,omitempty"`
		Bundles map[string]decision.BundleState `json:"bundles,omitempty"`
		Erased  []string                        `json:"erased,omitempty"`
		Masked  []string                        `json:"masked,omitempty"`
		Input   json.RawMessage                 `json:"input,omitempty"`
		Change  *decision.Change                `json:"policy_change,omitempty"`
	}{e.Result.File, e.Result.Line, e.Result.Owner, e.Bundles, e.Erased, e.Masked, e.Input, e.Change})
	if err != nil {
		return nil // an input that is no JSON, which no event has
	}
	return b
}
