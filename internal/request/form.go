package request

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yunfan.io/yunfan/api/v1alpha1"
)

//go:embed form.html
var formPage string

//go:embed form.css
var formStyle string

var formTemplate = template.Must(template.New("form").Parse(formPage))

// formPolicy lets the page have its own style and nothing else: no script, no picture, nothing from elsewhere.
var formPolicy = func() string {
	sum := sha256.Sum256([]byte(formStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// sheet is what the printed form consists of.
type sheet struct {
	Lang, Title, Name, HistoryTitle string
	Style                           template.CSS
	Sections                        []section
	HistoryHeader                   []string
	History                         [][]string
	Signatures                      []string
}

type section struct {
	Title string
	Lines []line
}

type line struct{ Label, Text string }

// form answers with a request as a page to be printed or kept as PDF, with every field of the form.
func (r *Requests) form(w http.ResponseWriter, req *http.Request) error {
	lang := cmp.Or(req.URL.Query().Get("lang"), "zh")
	if lang != "zh" && lang != "en" {
		return badRequest("lang=%.20q: choose zh or en", lang)
	}
	one, err := r.one(req)
	if err != nil {
		return err
	}
	chosen := &where{}
	chosen.in("uid", []string{string(one.UID)})
	rows, _, err := r.ledger.page(req.Context(), chosen, false, 0, maxLedgerPage)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	if err := formTemplate.Execute(&page, newSheet(one, rows, lang)); err != nil {
		return fmt.Errorf("writing the form of request %s: %w", one.Name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", formPolicy)
	if _, err := w.Write(page.Bytes()); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

func newSheet(req *v1alpha1.ResourceRequest, rows []LedgerRow, lang string) *sheet {
	say := func(zh, en string) string {
		if lang == "zh" {
			return zh
		}
		return en
	}
	s := &sheet{
		Lang: map[string]string{"zh": "zh-CN", "en": "en"}[lang], Title: say("资源申请表", "Resource request"), Name: req.Name,
		Style:         template.CSS(formStyle), //nolint:gosec // a file of ours
		Sections:      []section{formSection(req, say), wantedSection(req, say), decisionSection(req, say)},
		HistoryTitle:  say("处理记录", "History"),
		HistoryHeader: []string{say("时间", "Time"), say("事件", "Event"), say("操作人", "By"), say("配额", "Quota"), say("期限", "Until"), say("说明", "Comment")},
		Signatures:    []string{say("申请人签字:", "Applicant:"), say("审批人签字:", "Approved by:"), say("日期:", "Date:")},
	}
	for i := range rows {
		row := &rows[i]
		amount := ""
		if row.Granted != nil {
			amount = words(row.Granted)
		}
		s.History = append(s.History, []string{
			row.Time.Format("2006-01-02 15:04:05 UTC"), translate(row.Event, say), row.Actor, amount, printed(row.GrantedUntil), row.Comment,
		})
	}
	return s
}

type sayer func(zh, en string) string

// formSection are the fifteen fields of the form.
func formSection(req *v1alpha1.ResourceRequest, say sayer) section {
	f := &req.Spec.Form
	storage := ""
	if f.Storage != nil {
		storage = f.Storage.String()
	}
	bandwidth := ""
	if f.Bandwidth > 0 {
		bandwidth = strconv.Itoa(int(f.Bandwidth)) + " Mbit/s"
	}
	return section{say("基本信息", "Form"), []line{
		{say("申请时间", "Request time"), printed(&req.CreationTimestamp)},
		{say("项目组", "Project group"), f.ProjectGroup},
		{say("申请人", "Applicant"), f.Applicant},
		{say("电话", "Phone"), f.Phone},
		{say("邮箱", "E-mail"), f.Email},
		{say("应用名称", "Application name"), f.Application},
		{say("所需基础服务", "Base services"), strings.Join(f.BaseServices, ", ")},
		{say("用途", "Purpose"), f.Purpose},
		{say("服务器类型", "Server type"), translate(string(f.ServerType), say)},
		{say("是否需要 Oracle", "Oracle needed"), map[bool]string{true: say("是", "yes"), false: say("否", "no")}[f.Oracle]},
		{say("存储空间", "Storage space"), storage},
		{say("带宽", "Bandwidth"), bandwidth},
		{say("机房", "Room"), f.Room},
		{say("机器数量", "Number of machines"), strconv.Itoa(int(f.Machines))},
		{say("备注", "Remarks"), f.Remarks},
	}}
}

func wantedSection(req *v1alpha1.ResourceRequest, say sayer) section {
	wanted := &req.Spec.Wanted
	var items []string
	for _, item := range wanted.Items {
		items = append(items, fmt.Sprintf("%s × %d", item.Product, item.Count))
	}
	quota := ""
	if wanted.Quota != nil {
		quota = words(wanted.Quota)
	}
	return section{say("申请内容", "What is asked for"), []line{
		{say("申请编号", "Request"), req.Namespace + "/" + req.Name},
		{say("提交用户", "User"), person(req.Spec.User)},
		{say("类型", "Type"), translate(string(wanted.Type), say)},
		{say("分区", "Partition"), wanted.Partition},
		{say("期望集群", "Cluster wished for"), wanted.Cluster},
		{say("环境", "Environment"), translate(wanted.Environment, say)},
		{say("产品", "Products"), strings.Join(items, ", ")},
		{say("配额", "Quota"), quota},
		{say("使用期限", "Until"), printed(wanted.Until)},
	}}
}

func decisionSection(req *v1alpha1.ResourceRequest, say sayer) section {
	st := &req.Status
	s := section{say("审批与分配", "Decision"), []line{
		{say("状态", "Phase"), translate(string(cmp.Or(st.Phase, v1alpha1.RequestApplied)), say)},
		{say("审批人", "Decided by"), strings.Join(st.By, ", ")},
		{say("审批意见", "Comment"), st.Comment},
	}}
	if g := st.Granted; g != nil {
		s.Lines = append(s.Lines,
			line{say("分配集群", "Cluster"), g.Cluster}, line{say("分配配额", "Quota granted"), words(g.Quota)}, line{say("到期时间", "Granted until"), printed(g.Until)})
	}
	return s
}

func printed(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// inChinese are words of the API.
var inChinese = map[string]string{
	"New": "新建", "Change": "变更", "Extend": "延期", "Return": "归还",
	"Production": "生产", "Test": "测试", "Development": "开发",
	"ApplicationHost": "应用主机", "MPP": "MPP", "Hadoop": "Hadoop",
	"Applied": "已申请", "Approved": "已批准", "Rejected": "已驳回", "Allocated": "已分配", "Active": "已生效", "Expired": "已到期",
	"Returned": "已收回", "Withdrawn": "已撤回", "Failed": "失败", eventExpiring: "到期提醒", eventInUse: "到期仍在使用", eventDeleted: "已删除",
}

func translate(word string, say sayer) string {
	return say(cmp.Or(inChinese[word], word), word)
}
