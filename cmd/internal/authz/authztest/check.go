// Package authztest asks over ext_authz as Envoy does, for tests.
package authztest

import (
	"context"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// Check is one HTTP request that Envoy would ask about.
type Check struct {
	Principal, Service, Method, Host, Path string
	Headers                                map[string]string
}

// Proto is the question as Envoy sends it. Without a method it is of a network filter.
func (c Check) Proto() *authv3.CheckRequest {
	a := &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Principal: c.Principal}, ContextExtensions: map[string]string{}}
	if c.Service != "" {
		a.ContextExtensions["service"] = c.Service
	}
	if c.Method != "" {
		a.Request = &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: c.Method, Host: c.Host, Path: c.Path, Headers: c.Headers}}
	}
	return &authv3.CheckRequest{Attributes: a}
}

// Ask asks at a gRPC target, such as unix:/path. status is the HTTP status of a denial; id that of
// the decision.
func Ask(ctx context.Context, target string, c Check) (allowed bool, status int, id string, err error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("bailiwick"))
	if err != nil {
		return false, 0, "", err
	}
	defer conn.Close()
	r, err := authv3.NewAuthorizationClient(conn).Check(ctx, c.Proto())
	if err != nil {
		return false, 0, "", err
	}
	id = r.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
	return r.GetStatus().GetCode() == int32(codes.OK) && r.GetOkResponse() != nil, int(r.GetDeniedResponse().GetStatus().GetCode()), id, nil
}
