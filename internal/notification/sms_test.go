package notification

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
	"yunfan.io/yunfan/internal/outbound"
	"yunfan.io/yunfan/internal/testkit"
)

// evil is a text with what means something in each format.
const evil = `"}], <to>&amp;{{secret}} a=b&c=d%0A + ' 云帆`

func (p *platform) gatewayAt(address string, change func(*v1alpha1.SMSProvider)) *v1alpha1.NotificationProvider {
	p.t.Helper()
	o := &v1alpha1.NotificationProvider{
		ObjectMeta: metav1.ObjectMeta{Name: testkit.Name(p.t)},
		Spec: v1alpha1.NotificationProviderSpec{Type: v1alpha1.ProviderSMS, SMS: &v1alpha1.SMSProvider{
			URL: address, Headers: []v1alpha1.SMSHeader{{Name: "Authorization", Value: "Bearer {{secret}}"}},
			Body: `{"to": "{{phone}}", "text": "{{text}}", "id": "{{id}}"}`,
		}},
	}
	change(o.Spec.SMS)
	p.create(o)
	var written SecretWritten
	p.must(admin, "PUT", "/api/v1/notification-providers/"+o.Name+"/secret", `{"secret": "`+password+`"}`, &written)
	return o
}

func TestMET15_Gateway(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	p.lead()
	gateway := newHook(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		switch n {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			_, _ = w.Write([]byte(`{"code": 13, "message": "balance"}`))
		default:
			_, _ = w.Write([]byte(`{"code": 0}`))
		}
	})
	p.gatewayAt(gateway.URL+"/send", func(s *v1alpha1.SMSProvider) { s.ExpectedBody, s.ExpectedStatus = `"code":\s*0\b`, []int32{200} })
	channels := []v1alpha1.NotificationChannel{v1alpha1.ChannelSMS}
	u := p.user(func(u *v1alpha1.User) {
		u.Spec.Phone, u.Spec.Notifications = "+8613800138000", &v1alpha1.UserNotifications{Channels: &channels}
	})
	m := p.message("a", outbound.Recipient{User: u.Name})
	m.Data["comment"] = evil
	p.send(m)
	row := p.eventually("&channel=SMS", stateSent, 1)[0]
	g.Expect(row.Attempts).To(BeEquivalentTo(3))
	g.Expect(p.rows("&channel=Email")).To(BeEmpty())
	calls := gateway.got()
	var got map[string]string
	g.Expect(json.Unmarshal(calls[2].body, &got)).To(Succeed())
	g.Expect(got).To(Equal(map[string]string{"to": "+8613800138000", "text": "申请 a 已批准\n申请 a：" + evil, "id": row.ID}))
	g.Expect(calls[2].header.Get("Authorization")).To(Equal("Bearer " + password))
	g.Expect(calls[2].header.Get("Content-Type")).To(HavePrefix("application/json"))
}

func TestMET15_TextsCannotBreakOut(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*v1alpha1.SMSProvider)
		read   func(r *http.Request, body []byte) (string, error)
	}{
		"JSON": {func(s *v1alpha1.SMSProvider) { s.Body = `{"items": [{"text": "{{text}}"}]}` }, func(_ *http.Request, body []byte) (string, error) {
			var got struct{ Items []struct{ Text string } }
			err := json.Unmarshal(body, &got)
			return got.Items[0].Text, err
		}},
		"Form": {func(s *v1alpha1.SMSProvider) {
			s.BodyFormat, s.Body = v1alpha1.BodyForm, "a=1&text={{text}}&to={{digits}}"
		}, func(_ *http.Request, body []byte) (string, error) {
			got, err := url.ParseQuery(string(body))
			return got.Get("text"), err
		}},
		"XML": {func(s *v1alpha1.SMSProvider) {
			s.BodyFormat, s.Body = v1alpha1.BodyXML, "<sms><text>{{ text }}</text></sms>"
		}, func(_ *http.Request, body []byte) (string, error) {
			var got struct {
				Text string `xml:"text"`
			}
			err := xml.Unmarshal(body, &got)
			return got.Text, err
		}},
		"Query": {func(s *v1alpha1.SMSProvider) {
			s.Method, s.Body = http.MethodGet, ""
			s.URL += "/send?to={{phone}}&text={{text}}&key={{secret}}"
		}, func(r *http.Request, _ []byte) (string, error) { return r.URL.Query().Get("text"), nil }},
		"Path": {func(s *v1alpha1.SMSProvider) { s.URL += "/send/{{text}}/end" }, func(r *http.Request, _ []byte) (string, error) {
			return r.URL.Path[len("/send/") : len(r.URL.Path)-len("/end")], nil
		}},
		"Text": {func(s *v1alpha1.SMSProvider) { s.BodyFormat, s.Body = v1alpha1.BodyText, "{{text}}" }, func(_ *http.Request, body []byte) (string, error) {
			return string(body), nil
		}},
		"Header": {func(s *v1alpha1.SMSProvider) {
			s.Headers = append(s.Headers, v1alpha1.SMSHeader{Name: "X-Text", Value: "{{text}}"})
		}, func(r *http.Request, _ []byte) (string, error) {
			return "T\n" + r.Header.Get("X-Text")[len("T "):], nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			sms := &v1alpha1.SMSProvider{URL: "https://sms.example.com", BodyFormat: v1alpha1.BodyJSON, Body: "{}"}
			tc.change(sms)
			said := texts{map[v1alpha1.NotificationLanguage]string{"zh": "T"}, map[v1alpha1.NotificationLanguage]string{"zh": evil}}
			s := &Service{}
			s.setDefaults()
			r, err := s.gatewayRequest(t.Context(), sms, &envelope{Address: "+86", Language: v1alpha1.Chinese, Texts: said}, password)
			if err != nil {
				t.Fatal(err)
			}
			var body []byte
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, got *http.Request) {
				body = make([]byte, got.ContentLength)
				_, _ = got.Body.Read(body)
				*r = *got
			}))
			defer server.Close()
			target, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			r.URL.Scheme, r.URL.Host = target.Scheme, target.Host
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if got, err := tc.read(r, body); err != nil || got != "T\n"+evil {
				t.Errorf("got %q (%v), want %q", got, err, "T\n"+evil)
			}
		})
	}
}

func TestMET15_GatewayFailures(t *testing.T) {
	g := NewWithT(t)
	p := start(t, sqlite(t))
	gateway := newHook(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		switch r.URL.Path {
		case "/echo":
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(r.Header.Get("Authorization")))
		case "/moved":
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusTemporaryRedirect)
		case "/gone":
			w.WriteHeader(http.StatusGone)
		}
	})
	for name, tc := range map[string]struct {
		change func(*v1alpha1.SMSProvider)
		says   string
	}{
		"Refused":      {func(s *v1alpha1.SMSProvider) { s.URL += "/echo" }, "403"},
		"Redirect":     {func(s *v1alpha1.SMSProvider) { s.URL += "/moved" }, "redirects are not followed"},
		"Gone":         {func(s *v1alpha1.SMSProvider) { s.URL += "/gone" }, "410"},
		"Metadata":     {func(s *v1alpha1.SMSProvider) { s.URL = "http://169.254.169.254/{{secret}}" }, "refused"},
		"Place":        {func(s *v1alpha1.SMSProvider) { s.Body = `{"a": "{{password}}"}` }, "there is no place {{password}}"},
		"Not JSON":     {func(s *v1alpha1.SMSProvider) { s.Body = `{"a": {{text}}}` }, "places stand between quotes"},
		"Body":         {func(s *v1alpha1.SMSProvider) { s.ExpectedBody = "OK" }, "does not match expectedBody"},
		"No RE2":       {func(s *v1alpha1.SMSProvider) { s.ExpectedBody = "(" }, "no regular expression"},
		"Other status": {func(s *v1alpha1.SMSProvider) { s.ExpectedStatus = []int32{201} }, "none of those expected"},
	} {
		t.Run(name, func(t *testing.T) {
			provider := p.gatewayAt(gateway.URL, tc.change)
			code, answer := p.ask(admin, "POST", "/api/v1/notification-providers/"+provider.Name+"/test", `{"to": "13800138000", "language": "en"}`)
			g.Expect(code).To(Equal(http.StatusOK))
			g.Expect(answer).To(And(ContainSubstring(`"sent":false`), ContainSubstring(tc.says), Not(ContainSubstring(password))))
		})
	}
}
