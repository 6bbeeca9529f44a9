package authz

import (
	"context"
	"net"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/local"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// DecisionHeader is the header of a denial that carries the decision's ID.
const DecisionHeader = "x-bailiwick-decision"

// Envoy is envoy.service.auth.v3.Authorization.
type Envoy struct {
	authv3.UnimplementedAuthorizationServer
	Decider Decider
	Service string   // for routes whose context extensions name none
	Headers []string // that policy sees, lower case
}

// Serve answers on lis until it is closed, or ctx ends.
func (e *Envoy) Serve(ctx context.Context, lis net.Listener) error {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(1<<20), grpc.MaxHeaderListSize(16<<10), grpc.MaxConcurrentStreams(256),
		grpc.ConnectionTimeout(10*time.Second), grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute}),
	)
	authv3.RegisterAuthorizationServer(s, e)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return s.Serve(lis)
}

// Check answers one question, always without an error.
func (e *Envoy) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	q := e.question(req.GetAttributes())
	var from *local.Caller
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(local.Addr); ok {
			from = a.Caller
		}
	}
	return answer(e.Decider.Decide(ctx, from, q)), nil
}

func (e *Envoy) question(a *authv3.AttributeContext) (q Question) {
	q.API, q.Service = "ext_authz", e.Service
	if named := a.GetContextExtensions()["service"]; named != "" {
		q.Service = named
	}
	if q.Subject, q.Err = subject(a.GetSource().GetPrincipal()); q.Err != nil {
		return q
	}
	if q.Service == "" {
		q.Err = bad("neither the route's context extension \"service\" nor policy.ext_authz.service names a service")
		return q
	}
	h := a.GetRequest().GetHttp()
	if h == nil {
		return q
	}
	q.Request, q.Err = request(h.GetMethod(), h.GetHost(), h.GetPath(), e.Headers, func(name string) (string, bool) { return header(h, name) })
	return q
}

// header reads one header in either form in which Envoy sends them. Several of one name are joined.
func header(h *authv3.AttributeContext_HttpRequest, name string) (string, bool) {
	if v, ok := h.GetHeaders()[name]; ok {
		return v, true
	}
	var all []string
	for _, v := range h.GetHeaderMap().GetHeaders() {
		if strings.EqualFold(v.GetKey(), name) {
			if raw := v.GetRawValue(); len(raw) > 0 {
				all = append(all, string(raw))
			} else {
				all = append(all, v.GetValue())
			}
		}
	}
	return strings.Join(all, ", "), len(all) > 0
}

// answer is what Envoy does: let through, or 403. A node that cannot decide yet makes it a 503, which
// its client may try again.
func answer(d policy.Decision) *authv3.CheckResponse {
	meta := &structpb.Struct{Fields: map[string]*structpb.Value{"decision_id": structpb.NewStringValue(d.ID)}}
	if d.Allow {
		return &authv3.CheckResponse{
			Status: &statuspb.Status{Code: int32(codes.OK)}, DynamicMetadata: meta,
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
		}
	}
	code, http := codes.PermissionDenied, typev3.StatusCode_Forbidden
	if d.Rule == RuleNotReady {
		code, http = codes.Unavailable, typev3.StatusCode_ServiceUnavailable
	}
	message := "denied, decision " + d.ID
	if d.Title != "" { // for the proxy's log: its clients may be anybody
		meta.Fields["title"], meta.Fields["owner"] = structpb.NewStringValue(d.Title), structpb.NewStringValue(d.Owner)
		message += ": " + d.Title + ", owner " + d.Owner
		if labels := d.Labels(); len(labels) > 0 {
			fields := map[string]*structpb.Value{}
			for name, text := range labels {
				fields[name] = structpb.NewStringValue(text)
			}
			meta.Fields["labels"] = structpb.NewStructValue(&structpb.Struct{Fields: fields})
			message += ", " + policy.LabelsText(labels)
		}
	}
	return &authv3.CheckResponse{
		Status: &statuspb.Status{Code: int32(code), Message: message}, DynamicMetadata: meta,
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: http},
			Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: DecisionHeader, Value: d.ID}}},
			Body:    "denied, decision " + d.ID + "\n",
		}},
	}
}
