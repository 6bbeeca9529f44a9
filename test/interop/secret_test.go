package interop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// secretQuestions go to a secret discovery service as Envoy asks them, by name.
var secretQuestions = [][]string{
	{"ROOTCA"}, {"ALL"}, {"default"}, {"default", "ROOTCA"}, {td.IDString()},
	{td.IDString() + "/workload/other"}, {"default", td.IDString() + "/workload/other"},
	{"spiffe://north.dev.example"}, {"file-root:system"}, {""}, {"", "default"},
}

// sameSecrets asks ours and a stock agent's the same: codes, names, and what each
// secret is.
func sameSecrets(t *testing.T, ours, stock string) {
	t.Helper()
	us := secretv3.NewSecretDiscoveryServiceClient(unixConn(t, ours))
	them := secretv3.NewSecretDiscoveryServiceClient(unixConn(t, stock))
	plain := &corev3.Node{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"disable_spiffe_cert_validation": structpb.NewBoolValue(true)}}}
	for _, node := range []*corev3.Node{nil, plain} {
		for _, names := range secretQuestions {
			req := &discoveryv3.DiscoveryRequest{ResourceNames: names, Node: node}
			for how, ask := range map[string]func(context.Context, secretv3.SecretDiscoveryServiceClient, *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error){
				"once": fetchSecrets, "stream": streamSecrets,
			} {
				got, want := secretAnswer(t, us, req, ask), secretAnswer(t, them, req, ask)
				if got != want {
					t.Errorf("SDS, %s, %q, node %v: ours says %s, spire-agent's %s", how, names, node, got, want)
				}
			}
		}
	}
}

func fetchSecrets(ctx context.Context, c secretv3.SecretDiscoveryServiceClient, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	return c.FetchSecrets(ctx, req)
}

func streamSecrets(ctx context.Context, c secretv3.SecretDiscoveryServiceClient, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	s, err := c.StreamSecrets(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Send(req); err != nil {
		return nil, err
	}
	return s.Recv()
}

// secretAnswer says in words what came back. IDs of workloads, which are not the same
// behind both sockets, are left out.
func secretAnswer(t *testing.T, c secretv3.SecretDiscoveryServiceClient, req *discoveryv3.DiscoveryRequest, ask func(context.Context, secretv3.SecretDiscoveryServiceClient, *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := ask(ctx, c, req)
	if err != nil {
		return fmt.Sprintf("%s %s", status.Code(err), message(err))
	}
	var out []string
	for _, r := range resp.GetResources() {
		var s tlsv3.Secret
		must(t, r.UnmarshalTo(&s))
		name, _, _ := strings.Cut(s.GetName(), "/workload/")
		v := s.GetValidationContext()
		out = append(out, fmt.Sprintf("%s: key %v, roots %v, validator %q", name,
			s.GetTlsCertificate().GetPrivateKey() != nil, v.GetTrustedCa() != nil, v.GetCustomValidatorConfig().GetName()))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// message is what a server says beside a code, where it is the client's mistake.
func message(err error) string {
	if s := status.Convert(err); s.Code() == codes.InvalidArgument {
		return s.Message()
	}
	return ""
}
