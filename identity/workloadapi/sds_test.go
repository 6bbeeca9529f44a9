package workloadapi

import (
	"crypto/tls"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/bailiwick-mesh/bailiwick/attest/caller"
)

const (
	eastTD = "spiffe://east.dev.example"
	westTD = "spiffe://west.dev.example"
)

func unpack(t testing.TB, resp *discoveryv3.DiscoveryResponse) map[string]*tlsv3.Secret {
	t.Helper()
	out := map[string]*tlsv3.Secret{}
	for _, r := range resp.GetResources() {
		var s tlsv3.Secret
		if err := r.UnmarshalTo(&s); err != nil {
			t.Fatal(err)
		}
		out[s.Name] = &s
	}
	return out
}

func old(major, minor uint32) *corev3.Node {
	return &corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: major, MinorNumber: minor}},
	}}
}

func asking(key string, v *structpb.Value) *corev3.Node {
	return &corev3.Node{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{key: v}}}
}

// TestSecrets: what each name is, and to whom it is refused. Names and codes are
// spire-agent's.
func TestSecrets(t *testing.T) {
	const plain, each = "plain roots", "validator"
	tests := []struct {
		name  string
		req   *discoveryv3.DiscoveryRequest
		spoil func(*fixture)
		want  []string
		kind  string // of the roots in the answer
		code  codes.Code
	}{
		{"everything", &discoveryv3.DiscoveryRequest{}, nil, []string{eastTD, shopID, westTD}, each, codes.OK},
		{"empty names", &discoveryv3.DiscoveryRequest{ResourceNames: []string{""}}, nil, []string{eastTD, shopID, westTD}, each, codes.OK},
		{"with the type", &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}}, nil, []string{"default"}, "", codes.OK},
		{"of another type", &discoveryv3.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}, nil, nil, "", codes.InvalidArgument},
		{"by ID", &discoveryv3.DiscoveryRequest{ResourceNames: []string{shopID, shopID}}, nil, []string{shopID}, "", codes.OK},
		{"default and ROOTCA", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default", "ROOTCA"}}, nil, []string{"ROOTCA", "default"}, each, codes.OK},
		{"both names of the region", &discoveryv3.DiscoveryRequest{ResourceNames: []string{eastTD, "ROOTCA"}}, nil, []string{"ROOTCA", eastTD}, each, codes.OK},
		{"ALL", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ALL"}}, nil, []string{"ALL"}, each, codes.OK},
		{"another's", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default", eastTD + "/workload/bank"}}, nil, nil, "", codes.InvalidArgument},
		{"unknown domain", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"spiffe://north.dev.example"}}, nil, nil, "", codes.InvalidArgument},
		{"file names of Istio", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"file-root:system"}}, nil, nil, "", codes.InvalidArgument},
		{"too many names", &discoveryv3.DiscoveryRequest{ResourceNames: slices.Repeat([]string{"default"}, maxNames+1)}, nil, nil, "", codes.InvalidArgument},
		{"no identity, roots", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}}, func(f *fixture) { f.src.entries = nil }, []string{"ROOTCA"}, each, codes.OK},
		{"no identity, default", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}}, func(f *fixture) { f.src.entries = nil }, nil, "", codes.InvalidArgument},
		{"expired", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}}, func(f *fixture) {
			f.src.entries[0].identity.SVID = makeSVID(t, shopID, -time.Minute)
		}, nil, "", codes.InvalidArgument},
		{"gone", &discoveryv3.DiscoveryRequest{}, func(f *fixture) { f.proc.become(caller.ErrGone) }, nil, "", codes.PermissionDenied},
		{"not attributed", &discoveryv3.DiscoveryRequest{}, func(f *fixture) { f.proc.refuse(caller.ErrUnattributed) }, nil, "", codes.Unavailable},
		{"Envoy 1.17", &discoveryv3.DiscoveryRequest{Node: old(1, 17), ResourceNames: []string{"ROOTCA"}}, nil, []string{"ROOTCA"}, plain, codes.OK},
		{"Envoy 1.18", &discoveryv3.DiscoveryRequest{Node: old(1, 18), ResourceNames: []string{"ROOTCA"}}, nil, []string{"ROOTCA"}, each, codes.OK},
		{"Envoy 2", &discoveryv3.DiscoveryRequest{Node: old(2, 0), ResourceNames: []string{"ROOTCA"}}, nil, []string{"ROOTCA"}, each, codes.OK},
		{"asks for plain roots", &discoveryv3.DiscoveryRequest{Node: asking(noValidator, structpb.NewBoolValue(true)), ResourceNames: []string{westTD}}, nil, []string{westTD}, plain, codes.OK},
		{"asks in words", &discoveryv3.DiscoveryRequest{Node: asking(noValidator, structpb.NewStringValue("true")), ResourceNames: []string{westTD}}, nil, []string{westTD}, plain, codes.OK},
		{"asks for nonsense", &discoveryv3.DiscoveryRequest{Node: asking(noValidator, structpb.NewNumberValue(1)), ResourceNames: []string{westTD}}, nil, []string{westTD}, each, codes.OK},
		{"ALL without the validator", &discoveryv3.DiscoveryRequest{Node: old(1, 17), ResourceNames: []string{"ALL"}}, nil, nil, "", codes.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, nil)
			if tt.spoil != nil {
				f.src.set(func(*source) { tt.spoil(f) })
			}
			resp, err := secretv3.NewSecretDiscoveryServiceClient(f.raw(t)).FetchSecrets(timeout(t), tt.req)
			if status.Code(err) != tt.code {
				t.Fatalf("got %v, want %s", err, tt.code)
			}
			var names []string
			for name, s := range unpack(t, resp) {
				names = append(names, name)
				if c := s.GetTlsCertificate(); c != nil {
					if _, err := tls.X509KeyPair(c.CertificateChain.GetInlineBytes(), c.PrivateKey.GetInlineBytes()); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				v := s.GetValidationContext()
				if kind := map[bool]string{true: plain, false: each}[v.GetCustomValidatorConfig() == nil]; kind != tt.kind {
					t.Errorf("%s: %s, want %s", name, kind, tt.kind)
				}
			}
			slices.Sort(names)
			if !slices.Equal(names, tt.want) {
				t.Errorf("got %q, want %q", names, tt.want)
			}
		})
	}
}

// TestEachDomainItsRoots: a root of one trust domain is never handed out as good for
// names of another.
func TestEachDomainItsRoots(t *testing.T) {
	f := start(t, nil)
	resp, err := secretv3.NewSecretDiscoveryServiceClient(f.raw(t)).FetchSecrets(timeout(t), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ALL"}})
	if err != nil {
		t.Fatal(err)
	}
	var c tlsv3.SPIFFECertValidatorConfig
	custom := unpack(t, resp)["ALL"].GetValidationContext().GetCustomValidatorConfig()
	if err := custom.GetTypedConfig().UnmarshalTo(&c); err != nil || custom.GetName() != "envoy.tls.cert_validator.spiffe" {
		t.Fatalf("%s: %v", custom.GetName(), err)
	}
	want := map[string][]byte{"east.dev.example": f.shop.Certificates[0].Raw, "west.dev.example": f.west.Certificates[0].Raw}
	for _, td := range c.TrustDomains {
		block, rest := pem.Decode(td.TrustBundle.GetInlineBytes())
		if block == nil || len(rest) != 0 || string(block.Bytes) != string(want[td.Name]) {
			t.Errorf("roots of %s are not its own", td.Name)
		}
		delete(want, td.Name)
	}
	if len(want) != 0 {
		t.Errorf("nothing for %d domains", len(want))
	}
}

// TestSecretStream is what Envoy does: subscribe, acknowledge, refuse, subscribe to
// more.
func TestSecretStream(t *testing.T) {
	f := start(t, nil)
	stream, err := secretv3.NewSecretDiscoveryServiceClient(f.raw(t)).StreamSecrets(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	send := func(req *discoveryv3.DiscoveryRequest) {
		t.Helper()
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	recv := func() *discoveryv3.DiscoveryResponse {
		t.Helper()
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	node := old(1, 17) // said once, and remembered
	send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, Node: node, ResourceNames: []string{"default"}})
	first := recv()
	if first.VersionInfo != "1" || first.Nonce == "" || first.TypeUrl != secretType || len(first.Resources) != 1 {
		t.Errorf("first: %v", first)
	}
	send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, VersionInfo: "1", ResponseNonce: first.Nonce, ResourceNames: []string{"default"}})
	f.src.set(func(*source) {}) // nothing new: nothing is sent

	renewed := makeSVID(t, shopID, 2*time.Hour)
	f.src.set(func(s *source) { s.entries[0].identity.SVID = renewed })
	second := recv()
	if second.VersionInfo != "2" || second.Nonce == first.Nonce {
		t.Errorf("second: version %s", second.VersionInfo)
	}
	chain := unpack(t, second)["default"].GetTlsCertificate().GetCertificateChain().GetInlineBytes()
	if block, _ := pem.Decode(chain); block == nil || string(block.Bytes) != string(renewed.Certificates[0].Raw) {
		t.Error("the push was not the renewed SVID")
	}

	// Envoy refuses the second. Nothing comes again until it asks for something else;
	// an answer to the first, under way meanwhile, changes nothing.
	send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, VersionInfo: "1", ResponseNonce: second.Nonce, ResourceNames: []string{"default"}, ErrorDetail: &rpcstatus.Status{Message: "no"}})
	send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, VersionInfo: "1", ResponseNonce: first.Nonce, ResourceNames: []string{eastTD + "/workload/bank"}})
	send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, VersionInfo: "1", ResponseNonce: second.Nonce, ResourceNames: []string{"ROOTCA", "default"}})
	third := recv()
	secrets := unpack(t, third)
	if third.VersionInfo != "3" || len(secrets) != 2 || secrets["ROOTCA"].GetValidationContext().GetTrustedCa() == nil {
		t.Errorf("third: %v", third)
	}

	// A subscription to what is taken away ends the stream.
	f.src.set(func(s *source) { s.entries = nil })
	if resp, err := stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `["default"]`) {
		t.Errorf("identity taken away: %v, %v", resp, err)
	}
}

// TestSecretStreamLooksAgain: no push goes to a process that is another one by then.
func TestSecretStreamLooksAgain(t *testing.T) {
	f := start(t, nil)
	stream, err := secretv3.NewSecretDiscoveryServiceClient(f.raw(t)).StreamSecrets(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	f.proc.become(caller.ErrChanged)
	f.src.set(func(s *source) { s.entries[0].identity.SVID = makeSVID(t, shopID, time.Hour) })
	if resp, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestDeltaSecretsIsAbsent(t *testing.T) {
	f := start(t, nil)
	stream, err := secretv3.NewSecretDiscoveryServiceClient(f.raw(t)).DeltaSecrets(timeout(t))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}
