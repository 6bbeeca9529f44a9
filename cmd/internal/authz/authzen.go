package authz

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Bounds of an AuthZEN request.
const (
	MaxBody        = 256 << 10 // bytes
	MaxEvaluations = 256
)

// AuthZEN is the Access Evaluation and Access Evaluations APIs of the Authorization API 1.0.
//
//	subject   {type: "spiffe", id: SPIFFE ID}, or absent for the program that asks
//	action    {name: "connect"}, or an HTTP method's name
//	resource  {type: "service", id: "<service>.<region>.mesh", properties: {path, host}}
//	context   {headers: {name: value}}, of which policy sees the allow-list
type AuthZEN struct {
	Decider Decider
	Headers []string // that policy sees, lower case
}

// Serve answers on lis until it is closed, or ctx ends.
func (z *AuthZEN) Serve(ctx context.Context, lis net.Listener) error {
	s := &http.Server{Handler: z.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnContext: local.WithCaller}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (z *AuthZEN) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /access/v1/evaluation", z.evaluation)
	mux.HandleFunc("POST /access/v1/evaluations", z.evaluations)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-ID"); id != "" && len(id) <= 128 {
			w.Header().Set("X-Request-ID", id)
		}
		mux.ServeHTTP(w, r)
	})
}

// tuple is what one evaluation is about; each part may come from the defaults of a batch.
type tuple struct {
	Subject *struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	} `json:"subject"`
	Action *struct {
		Name string `json:"name"`
	} `json:"action"`
	Resource *struct {
		Type       string `json:"type"`
		ID         string `json:"id"`
		Properties struct {
			Path string `json:"path"`
			Host string `json:"host"`
		} `json:"properties"`
	} `json:"resource"`
	Context *struct {
		Headers map[string]string `json:"headers"`
	} `json:"context"`
}

// batch is a request of either API.
type batch struct {
	tuple
	Evaluations []tuple `json:"evaluations"`
	Options     struct {
		Semantic string `json:"evaluations_semantic"`
	} `json:"options"`
}

// evaluated is one answer.
type evaluated struct {
	Decision bool `json:"decision"`
	Context  struct {
		Reason   string            `json:"reason,omitempty"`
		Title    string            `json:"title,omitempty"`
		Owner    string            `json:"owner,omitempty"`
		Labels   map[string]string `json:"labels,omitempty"`
		Decision string            `json:"decision_id"`
	} `json:"context"`
}

func (z *AuthZEN) evaluation(w http.ResponseWriter, r *http.Request) {
	var t tuple
	if !read(w, r, &t) {
		return
	}
	write(w, z.evaluate(r, t))
}

func (z *AuthZEN) evaluations(w http.ResponseWriter, r *http.Request) {
	var b batch
	if !read(w, r, &b) {
		return
	}
	if len(b.Evaluations) == 0 { // as the specification has it: then it is one evaluation
		write(w, z.evaluate(r, b.tuple))
		return
	}
	stopAt, stops := map[string]bool{"deny_on_first_deny": false, "permit_on_first_permit": true}[b.Options.Semantic]
	if len(b.Evaluations) > MaxEvaluations || !stops && b.Options.Semantic != "" && b.Options.Semantic != "execute_all" {
		http.Error(w, "want at most 256 evaluations, and execute_all, deny_on_first_deny or permit_on_first_permit", http.StatusBadRequest)
		return
	}
	var out struct {
		Evaluations []evaluated `json:"evaluations"`
	}
	for _, t := range b.Evaluations {
		e := z.evaluate(r, t.over(b.tuple))
		out.Evaluations = append(out.Evaluations, e)
		if stops && e.Decision == stopAt {
			break
		}
	}
	write(w, out)
}

// over fills in what t lacks.
func (t tuple) over(defaults tuple) tuple {
	if t.Subject == nil {
		t.Subject = defaults.Subject
	}
	if t.Action == nil {
		t.Action = defaults.Action
	}
	if t.Resource == nil {
		t.Resource = defaults.Resource
	}
	if t.Context == nil {
		t.Context = defaults.Context
	}
	return t
}

func (z *AuthZEN) evaluate(r *http.Request, t tuple) (e evaluated) {
	d := z.Decider.Decide(r.Context(), local.From(r.Context()), z.question(t))
	e.Decision, e.Context.Decision = d.Allow, d.ID
	if !d.Allow {
		e.Context.Reason, e.Context.Title, e.Context.Owner, e.Context.Labels = stage(d), d.Title, d.Owner, d.Labels()
	}
	return e
}

// stage is where a denial comes from. Beside it an asker hears what a rule's author wrote for those whom
// it refuses, its title, owner and labels, and no more of why not.
func stage(d policy.Decision) string {
	switch {
	case d.Rule == RuleQuestion, d.Rule == RuleNotReady:
		return d.Reason // of the question itself, or of the node
	case d.Level == "":
		return "not decided by policy"
	}
	return "policy"
}

// Rules of denials that no policy made.
const (
	RuleQuestion = "question-not-valid" // what cannot be decided
	RuleNotReady = "not-ready"          // the node cannot decide yet: ask again
)

func (z *AuthZEN) question(t tuple) (q Question) {
	q.API = "authzen"
	if s := t.Subject; s != nil {
		if s.Type != "spiffe" || s.ID == "" {
			q.Err = bad("subject: want type spiffe and a SPIFFE ID, or no subject")
			return q
		}
		if q.Subject, q.Err = subject(s.ID); q.Err != nil {
			return q
		}
	}
	switch {
	case t.Resource == nil || t.Resource.Type != "service" || t.Resource.ID == "":
		q.Err = bad("resource: want {type: service, id: <service>.<region>.mesh}")
		return q
	case t.Action == nil || t.Action.Name == "":
		q.Err = bad("action: want {name: connect} or the name of an HTTP method")
		return q
	}
	q.Service = t.Resource.ID
	if t.Action.Name == "connect" {
		return q
	}
	sent := map[string]string{}
	if t.Context != nil {
		for name, v := range t.Context.Headers {
			sent[strings.ToLower(name)] = v
		}
	}
	p := t.Resource.Properties
	q.Request, q.Err = request(t.Action.Name, p.Host, p.Path, z.Headers, func(name string) (string, bool) { v, ok := sent[name]; return v, ok })
	return q
}

// read decodes a body, or answers 400, 413 or 415 itself: there is no question to decide then.
// A page in a browser may send other types than JSON to a loopback port without asking first.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		http.Error(w, "want Content-Type: application/json", http.StatusUnsupportedMediaType)
		return false
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		http.Error(w, "the request is larger than 256 KiB", http.StatusRequestEntityTooLarge)
		return false
	}
	if err == nil {
		if err = exact(b, reflect.TypeOf(into)); err == nil {
			err = json.Unmarshal(b, into)
		}
	}
	if err != nil {
		http.Error(w, "not a request of the Authorization API: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // who asked has left
}
