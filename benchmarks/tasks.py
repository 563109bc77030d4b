"""The reviews and the tasks of FewCLUE as clozes, with label words and published results."""

REVIEWS = {0: "不", 1: "很"}
NEWS = {
    "news_story": "故事", "news_culture": "文化", "news_entertainment": "娱乐",
    "news_sports": "体育", "news_finance": "财经", "news_house": "房产", "news_car": "汽车",
    "news_edu": "教育", "news_tech": "科技", "news_military": "军事", "news_travel": "旅游",
    "news_world": "国际", "news_stock": "股票", "news_agriculture": "农业", "news_game": "电竞",
}  # fmt: skip
# Other words for the names of labels that are too long, or rare.
OTHER = {"语言(非英语)": "外语", "薅羊毛": "省钱"}
# Two characters for each discipline of csldcp.
DISCIPLINES = {
    "中医学/中药学": "中医",
    "中国语言文学": "文学",
    "交通运输工程": "交通",
    "体育学": "体育",
    "作物学": "作物",
    "信息与通信工程": "通信",
    "光学工程": "光学",
    "公共卫生与预防医学": "卫生",
    "公共管理": "行政",
    "兵器科学与技术": "兵器",
    "军事学": "军事",
    "农业工程": "农机",
    "农业资源利用": "土壤",
    "农林经济管理": "农经",
    "冶金工程": "冶金",
    "力学": "力学",
    "动力工程及工程热物理": "热能",
    "化学/化学工程与技术": "化学",
    "历史学": "历史",
    "口腔医学": "口腔",
    "哲学": "哲学",
    "园艺学": "园艺",
    "图书馆、情报与档案管理": "图书",
    "土木工程": "土木",
    "地球物理学": "地震",
    "地理学": "地理",
    "地质学/地质资源与地质工程": "地质",
    "基础医学/临床医学": "医学",
    "大气科学": "气象",
    "天文学": "天文",
    "工商管理": "企业",
    "应用经济学": "经济",
    "建筑学": "建筑",
    "心理学": "心理",
    "控制科学与工程": "控制",
    "政治学": "政治",
    "教育学": "教育",
    "数学": "数学",
    "新闻传播学": "新闻",
    "机械工程": "机械",
    "材料科学与工程": "材料",
    "林学/林业工程": "森林",
    "核科学与技术": "核能",
    "植物保护": "植保",
    "民族学": "民族",
    "水产": "水产",
    "水利工程": "水利",
    "法学": "法律",
    "测绘科学与技术": "测绘",
    "海洋科学": "海洋",
    "物理学": "物理",
    "环境科学与工程": "环境",
    "理论经济学": "资本",
    "生物学/生物科学与工程": "生物",
    "电子科学与技术": "电子",
    "电气工程": "电力",
    "畜牧学/兽医学": "畜牧",
    "石油与天然气工程": "石油",
    "矿业工程": "采矿",
    "社会学": "社会",
    "纺织科学与工程": "纺织",
    "航空宇航科学与技术": "航空",
    "船舶与海洋工程": "船舶",
    "艺术学": "艺术",
    "药学": "药物",
    "计算机科学与技术": "电脑",
    "食品科学与工程": "食品",
}
# For each task the template of a person, that of P-tuning, and the words of the labels: "names" for
# the names of the labels, such as 公共交通, and `None` where the texts have candidates.
TASKS = {
    "eprstmt": (
        "[MASK]满意。{text}",
        "[u1][u2][u3][u4][MASK][u5][u6][u7][u8]{text}",
        {"Negative": "不", "Positive": "很"},
    ),
    "csldcp": (
        "这是[MASK][MASK]论文：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}",
        DISCIPLINES,
    ),
    "tnews": (
        "[MASK][MASK]新闻：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6][u7][u8]{text}",
        NEWS,
    ),
    "iflytek": (
        "这是[MASK][MASK][MASK][MASK]应用：{text}",
        "[u1][u2][u3][u4][MASK][MASK][MASK][MASK][u5][u6][u7][u8]{text}",
        "names",
    ),
    "ocnli": (
        "{text}？[MASK][MASK]，{text_b}",
        "[u1][u2]{text}？[u3][u4][MASK][MASK][u5][u6]，{text_b}[u7][u8]",
        {"entailment": "是的", "contradiction": "不是", "neutral": "可能"},
    ),
    "bustm": (
        "{text}和{text_b}意思[MASK]同。",
        "[u1][u2]{text}[u3][u4]{text_b}[u5][u6][MASK][u7][u8]",
        {"0": "不", "1": "相"},
    ),
    "csl": (
        "[MASK][MASK]用{text_b}概括：{text}",
        "[u1][u2][u3][u4][MASK][MASK][u5][u6]{text_b}[u7][u8]{text}",
        {"0": "不能", "1": "可以"},
    ),
    "chid": (
        "{text:-60}[MASK][MASK][MASK][MASK]{text_b:60}",
        "[u1][u2][u3][u4]{text:-50}[MASK][MASK][MASK][MASK]{text_b:50}[u5][u6][u7][u8]",
        None,
    ),
    "cluewsc": (
        "{text_b}，[MASK]对。{text}",
        "[u1][u2][u3][u4][MASK][u5][u6]{text_b}[u7][u8]{text}",
        {"false": "不", "true": "很"},
    ),
}
# The other templates of PET, with the same words: of the tasks that have labels and further texts.
PET = {
    "eprstmt": ["{text}总之[MASK]满意。", "这个东西[MASK]好。{text}"],
    "tnews": ["{text}（[MASK][MASK]）", "下面是一条[MASK][MASK]新闻。{text}"],
    "bustm": ["{text}？{text_b}？这两句话[MASK]像。", "{text}，也就是说，{text_b}，[MASK]似。"],
}
# Accuracy in percent on `test_public`, the mean of five draws, with RoBERTa-wwm-ext base (R). The
# benchmark's own table has the second column, where only the virtual tokens learn. The others are
# from table 3 of https://arxiv.org/abs/2107.07498. PET and fine-tuning train the whole model.
PUBLISHED_METHODS = ("zero-shot R", "P-tuning R, frozen", "PET R", "fine-tuning R")
PUBLISHED = {
    "eprstmt": (85.2, 88.5, 86.7, 65.4),
    "csldcp": (12.6, 44.4, 51.7, 35.5),
    "tnews": (25.3, 48.2, 54.5, 49.0),
    "iflytek": (27.7, 32.0, 46.0, 32.8),
    "ocnli": (40.3, 35.0, 44.0, 33.0),
    "bustm": (50.6, 65.4, 56.0, 60.7),
    "csl": (52.2, 50.0, 59.4, 50.0),
    "chid": (57.6, 57.6, 61.2, 14.9),
    "cluewsc": (50.0, 51.0, 57.5, 55.6),
}
